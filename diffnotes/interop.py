"""Other people's networks in this book's samplers: schedulers and networks of the diffusers library, and back.

Most code counts t from 0: its t = 0 is the first noisy step, which is t = 1 here, where index 0 is the data. That and
the object in which diffusers wraps its answer are the whole difference. A published DDPM in `ddim_sample`:

    from diffusers import DDPMScheduler, UNet2DModel

    scheduler = DDPMScheduler.from_pretrained("google/ddpm-cifar10-32")
    network = UNet2DModel.from_pretrained("google/ddpm-cifar10-32").eval()
    schedule, model = schedule_of(scheduler), noise_predictor(network, scheduler)
    x = ddim_sample(schedule, model, torch.randn(16, 3, 32, 32), steps=50, clip=1.0)

diffusers itself is not imported: a scheduler is read by its configuration, and a network is called.

>>> schedule_of({"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02})
NoiseSchedule(T=1000, betas 0.0001 .. 0.02, alpha_bar_T 4.036e-05)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffnotes.arguments import in_float64, number, whole
from diffnotes.reverse import Predicts, as_noise_predictor
from diffnotes.schedule import NoisePredictor, NoiseSchedule

PREDICTS: dict[str, Predicts] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def schedule_of(scheduler: Any) -> NoiseSchedule:
    """The noise schedule of a diffusers scheduler, in float64 (diffusers keeps float32, so its betas are off by 1e-8).

    Args:
        scheduler: such as a `DDPMScheduler` or a `DDIMScheduler`; or its configuration, a mapping.

    Raises:
        ValueError: the betas are rescaled to zero terminal SNR (alpha_bar_T = 0: x_T says nothing of x_0, nor does
            its eps), the beta schedule is unknown, or a value is of another kind.
    """
    config = getattr(scheduler, "config", scheduler)
    if not hasattr(config, "get"):
        raise ValueError(f"scheduler must be one of diffusers or its configuration, got {scheduler!r}")
    T = whole("num_train_timesteps", config.get("num_train_timesteps", 1000))
    name = config.get("beta_schedule", "linear")
    start, end = number("beta_start", config.get("beta_start", 1e-4)), number("beta_end", config.get("beta_end", 0.02))
    if config.get("rescale_betas_zero_snr"):
        raise ValueError("rescale_betas_zero_snr must be False, got True: where alpha_bar_T is 0, eps has no x_0")
    if (trained := config.get("trained_betas")) is not None:
        return NoiseSchedule(in_float64("trained_betas", trained))
    match name:
        case "linear":
            return NoiseSchedule(torch.linspace(start, end, T, dtype=torch.float64))
        case "scaled_linear":
            return NoiseSchedule(torch.linspace(start**0.5, end**0.5, T, dtype=torch.float64) ** 2)
        case "squaredcos_cap_v2":
            return NoiseSchedule.cosine(T)
        case "sigmoid":
            line = torch.linspace(-6, 6, T, dtype=torch.float64)
            return NoiseSchedule(torch.sigmoid(line) * (end - start) + start)
        case "laplace":
            u = 0.5 - torch.arange(T + 1, dtype=torch.float64) / T
            lam = torch.where(u < 0, 0.5, -0.5) * torch.log(1 - 2 * u.abs() + 1e-6)
            bars = torch.sigmoid(lam).sqrt()  # what diffusers takes for alpha_bar (the root of one, in fact)
            return NoiseSchedule((1 - bars[1:] / bars[:-1]).clamp(max=0.999))
    raise ValueError(
        f"beta_schedule must be 'linear', 'scaled_linear', 'squaredcos_cap_v2', 'sigmoid' or 'laplace', got {name!r}"
    )


def config_of(schedule: NoiseSchedule, predicts: Predicts = "eps") -> dict[str, Any]:
    """The configuration of a diffusers scheduler with this schedule: `DDPMScheduler(**config_of(schedule))`.

    Nothing is clipped, and steps are spaced as `timesteps` does by default.
    """
    names = {ours: theirs for theirs, ours in PREDICTS.items()}
    if predicts not in names:
        raise ValueError(f"predicts must be one of {tuple(names)}, got {predicts!r}")
    return {
        "num_train_timesteps": schedule.T,
        "trained_betas": schedule.betas[1:].tolist(),
        "prediction_type": names[predicts],
        "timestep_spacing": "trailing",
        "clip_sample": False,
    }


def counted_from_zero(model: Callable[[Tensor, Tensor], Tensor], T: int | None = None) -> NoisePredictor:
    """The noise predictor of a `model(x_t, t)` whose t runs over 0..T-1: it is asked at t - 1.

    Args:
        T: how many steps its schedule has, if samplers are to refuse schedules of another length.
    """

    def predictor(x_t: Tensor, t: Tensor) -> Tensor:
        return model(x_t, t - 1)

    predictor.T = None if T is None else whole("T", T)  # type: ignore[attr-defined]  # see `NoiseSchedule.check_T`
    return predictor


def noise_predictor(network: Any, scheduler: Any) -> NoisePredictor:
    """The noise predictor of a diffusers network, such as a `UNet2DModel`, trained with this scheduler.

    Its time is shifted by one, its answer is taken out of `.sample`, and x_0 or v, as the scheduler's `prediction_type`
    says, is turned into eps.

    Raises:
        ValueError: the network predicts a variance, too; the prediction type is none of "epsilon", "sample" and
            "v_prediction"; or `schedule_of` refuses the scheduler.
    """
    schedule = schedule_of(scheduler).to(next(network.parameters()).device)
    config = getattr(scheduler, "config", scheduler)
    if str(config.get("variance_type", "")).startswith("learned"):
        raise ValueError(f"variance_type must be fixed, got {config['variance_type']!r}: a learned one has no use here")
    if (kind := config.get("prediction_type", "epsilon")) not in PREDICTS:
        raise ValueError(f"prediction_type must be one of {tuple(PREDICTS)}, got {kind!r}")
    model = counted_from_zero(lambda x_t, t: network(x_t, t).sample, schedule.T)
    return as_noise_predictor(schedule, model, PREDICTS[kind])
