"""Rows without any pictures behind them."""

from ddim_edit.evaluation import EvaluationRow, Setting

RECIPE = {"model": "faces64", "dtype": "float32"}
DPM, DDIM = Setting("dpm2m", "karras:14", 10), Setting("ddim", "karras:14", 10)


def row(picture: str, setting: Setting = DPM, mse: float | None = 0.01, lpips: float | None = 0.1) -> EvaluationRow:
    return EvaluationRow(
        picture, f"hash of {picture}", *setting, True, setting.steps, setting.steps, lpips, 20.0, 0.9, mse, 0.5
    )
