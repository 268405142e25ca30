"""Peak signal-to-noise ratio."""

from __future__ import annotations

from assay.plugins.contract import Card, Context, Evaluator, Result, Subject
from assay.plugins.evaluate._common import mean_number
from assay.plugins.evaluate.fidelity._common import decibel, in_pixel_units, mean_square


class PSNR(Evaluator):
    """The peak signal-to-noise ratio of each test example, and how much better that is than doing nothing."""

    card = Card(
        title="Scope of validity of PSNR in image/video quality assessment",
        paper="doi:10.1049/el:20080522",
        problems=("restoration", "field"),
    )

    def numbers(self) -> tuple[str, ...]:
        return ("psnr", "gain")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        """Mean over the examples of 10 log10(1 / mean squared error), the peak being one pixel unit."""
        predicted, true, given = in_pixel_units(subject, ctx)
        if subject.spec.problem == "field":
            idle, what = true.mean(dim=1, keepdim=True), "a constant, the signal's own mean"
        else:
            idle, what = given, "the degraded image left as it is"
        psnr = decibel(mean_square(predicted - true))
        gain = psnr - decibel(mean_square(idle - true))
        return Result(
            {
                "psnr": mean_number(
                    psnr.numpy(), "Peak signal-to-noise ratio of a test example, at most 100 dB, mean.", 1, "dB"
                ),
                "gain": mean_number(gain.numpy(), f"The same, above that of {what}.", 1, "dB"),
            }
        )
