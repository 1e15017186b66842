"""Unrolled networks: an iteration of a classical solver whose proximal step is learned, with the true dipole operator inside."""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from qsmdl.errors import InputError
from qsmdl.networks.data_term import MISFITS, DataTerm, Misfit, Physics, conjugate_gradients
from qsmdl.networks.resnet import ResNet3d
from qsmdl.networks.unet import UNet3d

DataStep = Literal["gradient", "cg", "none"]
Seen = Literal["iterate", "gradient", "residual", "channels", "geometry"]
PROXIMAL: dict[str, type[nn.Module]] = {"unet": UNet3d, "resnet": ResNet3d}
N_GEOMETRY = 9


def geometry_channels(physics: Physics, like: Tensor) -> Tensor:
    """What tells a convolution where B0 points and how long its voxels are: the products b_i b_j (six) and the logarithms of the edges over their
    geometric mean (three), constant over the box, [batch, 9, x, y, z]. They are even in B0, as the dipole kernel is.
    """
    b, size = physics.b0_direction.float(), physics.voxel_size_mm.float()
    products = torch.stack([b[:, i] * b[:, j] for i in range(3) for j in range(i, 3)], 1)
    edges = size.log() - size.log().mean(1, keepdim=True)
    return torch.cat([products, edges], 1).to(like)[..., None, None, None].expand(-1, -1, *like.shape[-3:])


class Unrolled(nn.Module):
    """`n_steps` times a data step and a learned proximal step; [batch, in_channels, x, y, z] and the data term to [batch, 1, x, y, z].

    data_step: "gradient", x - tau D^T W^2 g'(D x - rest), tau learned for each step from `step_size` (0: the gradient is only shown to the proximal
    network at first; Adler and Oktem 2017); "cg", `n_cg` steps of conjugate gradients towards (D^T W^2 D + lambda)^-1 (D^T W^2 rest + lambda x),
    lambda learned from `damping` (MoDL; linear misfit only); "none". misfit, rad_per_ppm: of `DataTerm`. start: "zero" (the adapter's start, where it
    adds one) or "adjoint", tau D^T W^2 rest. proximal: "unet" or "resnet" with `keywords`, and `first` for what is different in the first; shared:
    one for all steps; residual: added to its input. sees: what it is fed, of "iterate", "gradient", "residual" (W (D x - rest)), "channels" (the
    adapter's) and "geometry" (`geometry_channels`); weighted: false for W = 1 in the mask. final_cg: that many CG steps with `damping` at the end, so
    that the map explains the data, which the challenge's truth does not (it does harm there: docs/flagship.md, entry 13).

    Instances of it: LPCNN (Lai et al., MICCAI 2020), VaNDI (Polak et al., NMR Biomed 2020; ISMRM 2019, 0319), ProxVNET (ISMRM 2020, 3198) and MoDL:
    configs/network. Sources beyond the box are those of the start: patches see their field in `rest`, and whole volumes have none.
    """

    needs_physics = True

    def __init__(
        self,
        *,
        in_channels: int = 1,
        n_steps: int = 3,
        data_step: DataStep = "gradient",
        misfit: Misfit = "linear",
        rad_per_ppm: float = 7.5,
        step_size: float = 1.0,
        damping: float = 0.05,
        n_cg: int = 8,
        start: Literal["zero", "adjoint"] = "zero",
        proximal: str = "unet",
        first: dict[str, Any] | None = None,
        shared: bool = False,
        residual: bool = True,
        sees: tuple[Seen, ...] = ("iterate", "gradient", "residual", "channels"),
        weighted: bool = True,
        final_cg: int = 0,
        **keywords: Any,
    ) -> None:
        super().__init__()
        self.sees = tuple(sees)
        _check_choices(data_step=data_step, misfit=misfit, start=start, proximal=proximal, sees=self.sees)
        _check_numbers(n_steps=n_steps, n_cg=n_cg, final_cg=final_cg, rad_per_ppm=rad_per_ppm, damping=damping, step_size=step_size)
        if shared and first:
            raise InputError("shared is true, but first says what is different in the first proximal network. Leave one of them out.")
        if misfit != "linear" and data_step == "cg":
            raise InputError(f"data_step is 'cg', which solves a linear problem, but misfit is {misfit!r}. Use misfit: linear, or gradient.")
        self.n_steps, self.n_cg, self.final_cg = n_steps, n_cg, final_cg
        self.data_step, self.misfit, self.rad_per_ppm = data_step, misfit, float(rad_per_ppm)
        self.from_adjoint, self.residual, self.weighted = start == "adjoint", bool(residual), bool(weighted)
        counts = {"channels": in_channels, "geometry": N_GEOMETRY}
        n_seen = sum(counts.get(name, 1) for name in self.sees)
        make = PROXIMAL[proximal]
        made = [make(in_channels=n_seen, **{**keywords, **((first or {}) if k == 0 else {})}) for k in range(1 if shared else n_steps)]
        self.proximal = nn.ModuleList(made)
        self.tau = nn.Parameter(torch.full((n_steps,), float(step_size)), requires_grad=data_step == "gradient")
        self.log_damping = nn.Parameter(torch.full((n_steps,), math.log(damping)), requires_grad=data_step == "cg")
        self.final_damping = float(damping)

    def last_layers(self) -> list[nn.Module]:
        """Those of the last proximal network."""
        last = self.proximal[-1]
        return list(last.last_layers()) if isinstance(last, UNet3d | ResNet3d) else [last]

    @property
    def n_uses(self) -> int:
        """How often each proximal network runs."""
        return self.n_steps // len(self.proximal)

    def data_term(self, rest: Tensor, mask: Tensor, weight: Tensor, scale: Tensor, physics: Physics | None) -> DataTerm:
        """The data term of maps in network units."""
        weight = weight if self.weighted else torch.ones_like(rest)
        return DataTerm.of(rest, mask, weight, scale, physics, misfit=self.misfit, rad_per_ppm=self.rad_per_ppm)

    def forward(self, channels: Tensor, term: DataTerm) -> Tensor:
        """The last iterate, what is added to the start."""
        x = torch.zeros_like(term.rest)
        if self.from_adjoint:
            x = -self.tau[0] * term.gradient(term.residual(x))
        for step in range(self.n_steps):
            x = self._step(step, x, channels, term)
        return self._solve(x, term, torch.as_tensor(self.final_damping), self.final_cg) if self.final_cg else x

    def _step(self, step: int, x: Tensor, channels: Tensor, term: DataTerm) -> Tensor:
        residual = gradient = None
        if self.data_step == "gradient" or {"gradient", "residual"} & set(self.sees):
            residual = term.residual(x)
            gradient = term.gradient(residual)
            if self.data_step == "gradient":
                x = x - self.tau[step] * gradient
        if self.data_step == "cg":
            x = self._solve(x, term, self.log_damping[step].exp(), self.n_cg)
        proximal = self.proximal[0 if len(self.proximal) == 1 else step]
        out: Tensor = proximal(self._seen(x, gradient, residual, channels, term)).float() * term.mask
        return x + out if self.residual else out

    def _seen(self, x: Tensor, gradient: Tensor | None, residual: Tensor | None, channels: Tensor, term: DataTerm) -> Tensor:
        found = {"iterate": x, "gradient": gradient, "channels": channels}
        if residual is not None:
            found["residual"] = residual * term.squared_weight.sqrt()
        if "geometry" in self.sees and term.physics is not None:
            found["geometry"] = geometry_channels(term.physics, x)
        return torch.cat([v for name in self.sees if (v := found[name]) is not None], 1)

    @staticmethod
    def _solve(x: Tensor, term: DataTerm, damping: Tensor, n_iterations: int) -> Tensor:
        target = term.dipole(term.squared_weight * term.rest) * term.mask + damping * x
        return conjugate_gradients(term, target, x, damping, n_iterations)


def _check_choices(**settings: Any) -> None:
    allowed = {"data_step": get_args(DataStep), "misfit": MISFITS, "start": ("zero", "adjoint"), "proximal": tuple(PROXIMAL)}
    for name, choices in allowed.items():
        if settings[name] not in choices:
            raise InputError(f"{name} is {settings[name]!r}; it must be one of {', '.join(choices)}.")
    unknown = [name for name in settings["sees"] if name not in get_args(Seen)]
    if unknown or not settings["sees"]:
        raise InputError(f"sees is {settings['sees']}; choose from {', '.join(get_args(Seen))}, at least one.")


def _check_numbers(**settings: Any) -> None:
    for name, least in {"n_steps": 1, "n_cg": 1, "final_cg": 0}.items():
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} is {value!r}; it must be a whole number of at least {least}.")
    for name in ("rad_per_ppm", "damping", "step_size"):
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6 or (value == 0 and name != "step_size"):
            raise InputError(f"{name} is {value!r}; it must be a positive number{' or 0' if name == 'step_size' else ''}.")
