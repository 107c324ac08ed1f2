"""What all modifiers share: the base class, and field types that check a YAML value or say what it must be."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from zoo.expressions import NUMERIC
from zoo.parameter_names import check_pattern

MAX_EPOCH = 1_000_000.0
EPOCH_TOLERANCE = 1e-9  # absorbs the rounding of eval(num_epochs * 0.1) and of step / steps_per_epoch

FROM_PARAM = "__FROM_PARAM__"


def _wrong(wanted: str, value: object) -> ValueError:
    return ValueError(f"must be {wanted}, not {ascii(value)[:60]}")


def _number(value: object) -> object:
    """Numeric text is a number, as YAML 1.1 loaders left `2e-5`; true and false are not."""
    if isinstance(value, bool):
        raise _wrong("a number", value)
    if isinstance(value, int) and abs(value) > 2**63:
        raise ValueError("is too large a number")
    if isinstance(value, str):
        if not NUMERIC.fullmatch(value.strip()):
            raise _wrong("a number", value)
        return float(value)
    return value


def _switch(value: object) -> object:
    """Recipes in the wild write switches as 0 and 1."""
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise _wrong("true, false, 1 or 0", value)


def _epoch(value: float) -> float:
    if value != -1 and not 0 <= value <= MAX_EPOCH:
        raise ValueError(f"must be -1 or an epoch from 0 to {MAX_EPOCH:.0f}, not {value}")
    return value


def _frequency(value: float) -> float:
    if value != -1 and not 0 < value <= MAX_EPOCH:
        raise ValueError(f"must be -1 (every step) or more than 0 epochs, not {value}")
    return value


def _rate(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"must be a learning rate from 0 to 1, not {value}")
    return value


def _sparsity(value: float) -> float:
    if not 0 <= value < 1:  # refuses nan too
        raise ValueError(f"must be a sparsity of at least 0 and less than 1, not {value}")
    return value


def _names(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in value:
        check_pattern(pattern)
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Epoch = Annotated[Number, AfterValidator(_epoch)]
Frequency = Annotated[Number, AfterValidator(_frequency)]
Rate = Annotated[Number, AfterValidator(_rate)]
Sparsity = Annotated[Number, AfterValidator(_sparsity)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Params = Annotated[Names, AfterValidator(_patterns)]


def _all_groups(value: object) -> None:
    if value is not None:
        raise ValueError("is not supported: a learning rate holds for all parameter groups; leave it out")


ParamGroups = Annotated[None, BeforeValidator(_all_groups)]


def _init_sparsity(value: object) -> object:
    return value if value == FROM_PARAM else _sparsity_number(value, f"a sparsity or {FROM_PARAM}")


def _final_sparsity(value: object) -> object:
    """A sparsity, or {sparsity: [params]}; keys are text in YAML and JSON."""
    if not isinstance(value, dict):
        return _sparsity_number(value, "a sparsity or a mapping {sparsity: [params]}")
    targets = [(_sparsity_number(key, "a sparsity"), _names(names)) for key, names in value.items()]
    if not targets:
        raise ValueError("must name at least one sparsity with its params")
    if len({sparsity for sparsity, _ in targets}) != len(targets):
        raise ValueError("names the same sparsity twice")
    return dict(targets)


def _sparsity_number(value: object, wanted: str) -> float:
    number = _number(value)
    if not isinstance(number, int | float):
        raise _wrong(wanted, value)
    return _sparsity(float(number))


MASKS = "unstructured, block4, [rows, columns] or N:M (N kept of M)"
BLOCK_ALIASES = {"4block": "block4", "block": "block4"}


def _mask_type(value: object) -> object:
    if isinstance(value, list | tuple):
        return _block(list(value))
    if not isinstance(value, str):
        raise _wrong(MASKS, value)
    if value in BLOCK_ALIASES:
        raise ValueError(f"{value!r} is the name that stubs use; a recipe says {BLOCK_ALIASES[value]}")
    if value in ("filter", "channel"):
        raise ValueError(f"{value!r} needs StructuredPruningModifier, which is not supported")
    if value == "tensorrt":
        return "2:4"
    if value not in ("unstructured", "block4"):
        kept_of(value)
    return value


def _block(block: list[object]) -> tuple[object, ...]:
    sizes_ok = all(isinstance(n, int) and not isinstance(n, bool) and (n == -1 or 1 <= n <= 4096) for n in block)
    if len(block) != 2 or not sizes_ok:
        raise _wrong("[rows, columns], each from 1 to 4096 or -1 for all", block)
    return tuple(block)


def kept_of(text: str) -> tuple[int, int]:
    """(N, M) of the mask type `N:M`; ValueError for other text."""
    found = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", text)
    kept, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= kept < of:
        raise _wrong(MASKS, text)
    return kept, of


def _unsupported(value: object) -> object:
    if value not in (None, False, {}, []):
        raise ValueError("is not supported; leave it out")
    return value


Eight = Annotated[int, Field(ge=8, le=8)]
Unsupported = Annotated[Any, BeforeValidator(_unsupported)]
InitSparsity = Annotated[float | Literal["__FROM_PARAM__"], BeforeValidator(_init_sparsity)]
FinalSparsity = Annotated[float | dict[float, Params], BeforeValidator(_final_sparsity)]
MaskType = Annotated[str | tuple[int, int], BeforeValidator(_mask_type)]


class Typed(BaseModel):
    """Frozen, and closed to fields that it does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Modifier(Typed):
    """What happens to a training run from `start_epoch` (inclusive) to `end_epoch` (exclusive)."""

    without_effect: ClassVar[dict[str, str]] = {}  # accepted for old recipes: field -> why it changes nothing

    start_epoch: Epoch = -1.0
    end_epoch: Epoch = -1.0

    @model_validator(mode="after")
    def _ends_after_start(self) -> Self:
        if self.end_epoch != -1 and self.end_epoch <= max(self.start_epoch, 0.0):
            raise ValueError(f"end_epoch {self.end_epoch:g} must come after start_epoch {self.start_epoch:g}")
        return self

    @property
    def name(self) -> str:
        """The YAML tag, such as `GMPruningModifier`."""
        return type(self).__name__

    @property
    def start(self) -> float:
        """First epoch at which the modifier acts, >= 0."""
        return max(self.start_epoch, 0.0)

    @property
    def end(self) -> float:
        """First epoch at which the modifier acts no more; infinity for `end_epoch: -1`."""
        return math.inf if self.end_epoch == -1 else self.end_epoch

    def active(self, epoch: float) -> bool:
        """Whether `epoch` lies in [start_epoch, end_epoch)."""
        return self.started(epoch) and not self.ended(epoch)

    def started(self, epoch: float) -> bool:
        """Whether `epoch` has reached start_epoch."""
        return epoch >= self.start - EPOCH_TOLERANCE

    def ended(self, epoch: float) -> bool:
        """Whether `epoch` has reached end_epoch."""
        return epoch >= self.end - EPOCH_TOLERANCE

    def canonical_fields(self) -> dict[str, Any]:
        """The fields that differ from their defaults, in plain JSON types."""
        return self.model_dump(mode="json", exclude_defaults=True)


class LastingModifier(Modifier):
    """Acts from start_epoch to the end of the run: its end_epoch can only be -1."""

    @model_validator(mode="after")
    def _never_ends(self) -> Self:
        if self.end_epoch != -1:
            raise ValueError(f"end_epoch must be -1: what {self.name} starts is not taken back")
        return self
