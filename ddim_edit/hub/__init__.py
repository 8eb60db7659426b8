"""Share directions, latents and models on the Hugging Face hub, each with a card that says what it is."""
