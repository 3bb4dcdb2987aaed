"""Weights to ship, and checkpoints that a killed process, a full disk or a bad copy cannot spoil.

A **checkpoint** is a folder such as `step-00001000`, which `sha256sum -c SHA256SUMS` can verify:

    weights.safetensors     the network as it stands
    ema.safetensors         its running average, the one to sample from
    optimiser.safetensors   Adam's moments, the states of torch's random generators, the loss of every step
    state.json              the step, the settings, the schedule, the names of network and loss
    SHA256SUMS              of these four

It is written beside its final place under another name, every file is flushed to disk, and only then is the folder
renamed. A rename happens or it does not, so a folder with the right name is complete. (A checkpoint being replaced is
called `.old-step-00001000` between two renames, and counts until the new one is there.) Reading runs no code from the
files, which contain no pickle, and anything that is not exactly as written is refused with a `ValueError`.

**Weights to ship** are one safetensors file: the tensors; the betas of the schedule they were trained for, without
which they are useless; and a header that says which network to build and where the weights come from, with a checksum.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from diffnotes.arguments import usable_device
from diffnotes.schedule import NoiseSchedule
from diffnotes.training.networks import NETWORKS, Network

SHIPPED = Path(__file__).parents[1] / "weights"
SUFFIX = ".safetensors"
SUMS = "SHA256SUMS"
STATE = "state.json"
BETAS = "schedule.betas"  # the schedule's name among the tensors of a weights file
TORCH = str(torch.__version__).split("+")[0]  # for the provenance, without the suffix for the build
# how the file systems of clusters, network drives and Windows answer a call they do not support
MISSING = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EBADF, errno.EACCES}
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
STORED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # the dtypes for weights to ship
Tensors = Mapping[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


class Loaded(NamedTuple):
    """What `load_model` returns."""

    model: Network  # float32, in evaluation mode
    schedule: NoiseSchedule  # the one it was trained for
    provenance: dict[str, Any]  # as given to `save_model`


# ---- weights to ship -----------------------------------------------------------------------------------------


def save_model(
    path: str | Path,
    model: nn.Module,
    schedule: NoiseSchedule,
    provenance: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the weights of `model`, with all it takes to rebuild and judge it, to one safetensors file.

    Args:
        path: the file, NAME.safetensors; it appears whole or not at all.
        model: one of `NETWORKS`, not a subclass; possibly compiled, or wrapped for several processes.
        schedule: the one it was trained for; its betas are stored.
        provenance: anything that JSON can hold: command, seed, data, steps, loss.
        dtype: for storage, e.g. torch.float16 for half the size; by default the weights' own.

    Raises:
        ValueError: `load_model` would refuse the file, a weight is not finite in `dtype`, JSON cannot hold the
            provenance, the suffix is wrong, or the network is made for another T.
        OSError: the file could not be written; what was at `path` is untouched.
    """
    net: Any = unwrapped(model)
    if type(net) not in NETWORKS.values():
        kind = f"{type(net).__module__}.{type(net).__name__}"
        raise ValueError(f"model must be one of {', '.join(NETWORKS)}, not a subclass, got {kind}")
    with torch.device("meta"):  # as `load_weights` will build it
        check_shapes("model must be as its config says, and it", net.state_dict(), type(net)(**net.config))
    schedule.check_T(net)
    save_weights(path, model, provenance, dtype, {BETAS: schedule.betas[1:]})


def save_weights(
    path: str | Path,
    model: nn.Module,
    provenance: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    beside: Tensors | None = None,
) -> None:
    """`save_model` for any network with a `config`; the tensors `beside` its weights are stored as they are."""
    check_suffix(path, SUFFIX)
    if dtype not in (None, *STORED):
        raise ValueError(f"dtype must be {', '.join(map(str, STORED[:-1]))} or {STORED[-1]}, got {dtype}")
    model, provenance = unwrapped(model), _as_json(provenance or {})
    tensors = {
        name: value.to(dtype) if dtype and value.is_floating_point() else value  # counters stay integers
        for name, value in model.state_dict().items()
    }
    if bad := [name for name, value in tensors.items() if not bool(value.isfinite().all())]:
        raise ValueError(
            f"weights to save must be finite in {dtype or 'their own dtype'}; these are not: {', '.join(bad)}"
        )
    write_file(path, _weights_bytes(model, {**tensors, **(beside or {})}, provenance), "weights")


def load_model(path: str | Path, device: torch.device | str = "cpu") -> Loaded:
    """The network in a file written by `save_model`, the schedule it was trained for, and its provenance.

    Args:
        path: the file, NAME.safetensors, or the bare name of one that ships with the package, such as "swiss_roll".

    Raises:
        ValueError: the file is damaged or of another kind, or `NoiseSchedule.to` would refuse the device.
        FileNotFoundError: there is no such file.

    >>> net, schedule, provenance = load_model("swiss_roll")
    >>> type(net).__name__, schedule.T, provenance["data"]
    ('MLP', 1000, 'diffnotes.data.swiss_roll')
    """
    model, provenance, beside = load_weights(path, NETWORKS, device, [BETAS])
    return Loaded(model, NoiseSchedule(beside[BETAS]).to(device), provenance)


def load_weights(
    path: str | Path,
    networks: Mapping[str, type[Module]],
    device: torch.device | str = "cpu",
    beside: Sequence[str] = (),
) -> tuple[Module, dict[str, Any], dict[str, Tensor]]:
    """One of `networks`, its provenance, and the tensors `beside` its weights, from a file that `save_weights` wrote.

    The network is in float32 and in evaluation mode. Paths and errors are those of `load_model`.
    """
    device, path = usable_device(device), Path(path)
    if path.suffix != SUFFIX:
        shipped = {file.stem: file for file in sorted(SHIPPED.glob(f"*{SUFFIX}"))}
        if str(path) not in shipped:
            kinds = f"a {SUFFIX} file, or one of those that ship with the package, {', '.join(shipped)}"
            raise FileNotFoundError(f"weights must be {kinds}, got {str(path)!r}")
        path = shipped[str(path)]
    tensors = _read_tensors(path.read_bytes(), path)
    try:
        header = json.loads((safe_open(path, "pt").metadata() or {})["diffnotes"])  # type: ignore[no-untyped-call]
        digest = header.pop("sha256")
        with torch.device("meta"):  # shapes only: the values come from the file
            model = networks[header["network"]](**header["config"])
        provenance: dict[str, Any] = header["provenance"]
        others = {name: tensors[name] for name in beside}
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not hold a network of diffnotes: {error!r}") from error
    if digest != _digest(tensors, header):
        raise ValueError(f"{path} is damaged: the SHA-256 of its content is not the one in its header")
    weights = {name: value for name, value in tensors.items() if name not in others}
    check_shapes(path, weights, model)
    for name, value in weights.items():
        weights[name] = value.to(device, torch.float32 if value.is_floating_point() else value.dtype)
    model.load_state_dict(weights, assign=True)
    return model.eval(), provenance, others


def model_bytes(model: nn.Module, schedule: NoiseSchedule) -> bytes:
    """The content of a file as `save_model` writes it, but without provenance or checks: for a checkpoint."""
    return _weights_bytes(model, {**model.state_dict(), BETAS: schedule.betas[1:]}, None)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside whatever torch.compile and the `WRAPPERS` have made of it."""
    inner = model.module if isinstance(model, WRAPPERS) else getattr(model, "_orig_mod", None)
    return model if inner is None else unwrapped(inner)


def _weights_bytes(model: nn.Module, tensors: Tensors, provenance: Mapping[str, Any] | None) -> bytes:
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = {"network": type(model).__name__, "config": getattr(model, "config", {}), "provenance": provenance or {}}
    header["sha256"] = _digest(tensors, header)
    # a single entry: safetensors writes several in varying order, and equal weights should give equal bytes
    return safetensors.torch.save(tensors, {"diffnotes": json.dumps(header)})


def _as_json(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """`provenance` as it will be read: JSON turns keys into strings, and sorts them as such for the checksum."""
    if not isinstance(provenance, Mapping):
        raise ValueError(f"provenance must be a mapping, got {provenance!r}")
    found: dict[str, Any] = {}
    for name, value in provenance.items():
        try:
            found |= json.loads(json.dumps({name: value}, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"provenance must be what JSON can hold, and {name!r} is not: {error}") from error
    return found


def check_shapes(path: Path | str, tensors: Tensors, model: nn.Module) -> None:
    """Raise ValueError, naming the first misfit, if the tensors are not those of this architecture."""
    have = {name: tuple(value.shape) for name, value in tensors.items()}
    want = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in [*want, *have]:
        if have.get(name) != want.get(name):
            raise ValueError(
                f"{path} is of another architecture: {name} is {have.get(name, 'missing')} there "
                f"and {want.get(name, 'missing')} in this {type(model).__name__}"
            )


# ---- checkpoints ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock `folder` for this run until it ends. The lock dies with its process, so a killed run leaves none behind.

    Without support for locks in the system or the file system, there is no lock.

    Raises:
        OSError: another run (the message says which) holds the lock, or the folder cannot be written.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # Windows
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".diffnotes-lock"
    with path.open("a+") as file:
        try:
            with _if_possible():
                flock(file, LOCK_EX | LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError  # its owner gave it up just before we locked it
        except BlockingIOError as error:
            file.seek(0)
            raise OSError(f"folder {folder} is in use by {file.read(200) or 'another run'}") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_checkpoint(folder: Path, step: int, files: Mapping[str, bytes], keep: int) -> Path:
    """Write `files` as the checkpoint of `step`, then delete all but the `keep` newest up to this step.

    Raises:
        OSError: it could not be written, or something else has its name; earlier checkpoints are untouched.
    """
    _clear(folder)
    final = folder / f"step-{step:08d}"
    temporary, old = _free(folder, ".tmp", step), _free(folder, ".old", step)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    try:
        if os.path.lexists(final) and _step_in_name(final) < 0:
            raise FileExistsError(errno.EEXIST, "something that is no checkpoint has its name")
        temporary.mkdir(parents=True)
        for name, content in {**files, SUMS: sums.encode()}.items():
            _write(temporary / name, content)
        _sync_folder(temporary)
        if final.is_dir():  # a checkpoint of this step, refused or good
            os.rename(final, old)
        os.rename(temporary, final)
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(
            error.errno, f"the checkpoint could not be written ({error.strerror}); earlier ones are intact", str(final)
        ) from error
    _doom(old)
    for outdated in [path for path in list_checkpoints(folder) if _step_in_name(path) <= step][:-keep]:
        _doom(outdated)
    _clear(folder)
    return final


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The content of state.json and the tensors of each safetensors file, if the checkpoint is exactly as written.

    Raises:
        ValueError: a file is missing, truncated or altered.
    """
    try:
        sums = dict(line.split("  ")[::-1] for line in (path / SUMS).read_text().splitlines())
        content = {name: (path / name).read_bytes() for name in sums}
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"checkpoint {path} is incomplete: {error}") from error
    for name, digest in sums.items():
        if hashlib.sha256(content[name]).hexdigest() != digest:
            raise ValueError(f"checkpoint {path} is damaged: the SHA-256 of {name} is not the one in {SUMS}")
    if STATE not in sums:
        raise ValueError(f"checkpoint {path} is incomplete: {SUMS} does not list {STATE}")
    tensors = {name: _read_tensors(content[name], path / name) for name in sums if name.endswith(".safetensors")}
    return json.loads(content[STATE]), tensors


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first, by the step in their names."""
    found = {_step_in_name(path): path for kind in (".old-step-*", "step-*") for path in folder.glob(kind)}
    return [found[step] for step in sorted(found) if step >= 0]


def _step_in_name(path: Path) -> int:
    """The step of a checkpoint, whole or damaged, or -1 if it is none: a folder may be the user's."""
    match = re.fullmatch(r"(?:\.old-)?step-(\d{8,})", path.name)
    return int(match[1]) if match and any(os.path.exists(path / name) for name in (SUMS, STATE)) else -1


def _free(folder: Path, kind: str, step: int) -> Path:
    """A free name for a folder of ours, normally that of this step."""
    names = (folder / f"{kind}-step-{number:08d}" for number in itertools.count(step))
    return next(path for path in names if not os.path.lexists(path))


def _clear(folder: Path) -> None:
    """Delete what processes killed while writing have left, but not the only checkpoint of a step."""
    kept = list_checkpoints(folder)
    for path in folder.glob(".old-step-*"):
        if _step_in_name(path) >= 0 and path not in kept:
            _doom(path)
    for path in folder.glob(".tmp-step-*"):
        if re.fullmatch(r"\.tmp-step-\d{8,}", path.name) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _doom(path: Path) -> None:
    """Leave a checkpoint to `_clear`: its name goes first, so one deleted in part is no checkpoint."""
    with contextlib.suppress(OSError):
        os.rename(path, _free(path.parent, ".tmp", 0))


# ---- bytes ---------------------------------------------------------------------------------------------------


def write_file(path: str | Path, content: bytes, what: str = "file") -> None:
    """Write a file so that it appears whole or not at all; until then, what was there before stays.

    Raises:
        OSError: it could not be written; the message says `what`.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, content)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"{what} could not be written ({error.strerror})", str(path)) from error


def check_target(path: str | Path, *suffixes: str) -> None:
    """Raise OSError, before any work, if `path` cannot be written; ValueError if it has none of the suffixes."""
    check_suffix(path, *suffixes)
    if (path := Path(path)).is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder has this name", str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(error.errno, f"no file can be written there ({error.strerror})", str(path)) from error


def check_suffix(path: str | Path, *suffixes: str) -> None:
    """Raise ValueError unless `path` ends in one of these."""
    if Path(path).suffix not in suffixes:
        raise ValueError(f"the name of a file to write must end in {' or '.join(suffixes)}, got {str(path)!r}")


def _write(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk, if the file system supports that."""
    with _if_possible():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _if_possible() -> Iterator[None]:
    """Ignore the error if the file system does not support the call."""
    try:
        yield
    except OSError as error:
        if error.errno not in MISSING:
            raise


def _read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def _digest(tensors: Tensors, header: Mapping[str, Any]) -> str:
    """SHA-256 of the header and of the names, dtypes, shapes and values of the tensors."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
