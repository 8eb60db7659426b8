"""Rows without any pictures behind them."""

from ddim_edit.evaluation import EvaluationRow, EvaluationSetting

RECIPE = {"model": "faces64", "dtype": "float32"}
DPM, DDIM = EvaluationSetting("dpm2m", "karras:14", 10), EvaluationSetting("ddim", "karras:14", 10)


def row(
    picture: str, setting: EvaluationSetting = DPM, mse: float | None = 0.01, lpips: float | None = 0.1
) -> EvaluationRow:
    scores = {"psnr": 20.0, "ssim": 0.9, "lpips": lpips, "mse": mse, "identical_pixels": 0.5}
    return EvaluationRow(picture, f"hash of {picture}", setting, True, setting.steps, setting.steps, scores)
