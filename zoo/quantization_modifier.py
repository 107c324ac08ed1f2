"""The modifier that trains with fake quantization, and the schemes that it names."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from zoo.modifier_fields import Eight, Epoch, LastingModifier, Names, Switch, Typed, Unsupported


class QuantizationArgs(Typed):
    """How one tensor is quantized."""

    num_bits: Annotated[int, Field(ge=8, le=8)] = 8
    symmetric: Switch = False
    strategy: Literal["tensor", "channel"] = "tensor"
    kwargs: dict[str, Any] = Field(default_factory=dict, max_length=0)


class QuantizationScheme(Typed):
    """How the inputs, weights and outputs of a layer are quantized; None leaves them in floating point."""

    input_activations: QuantizationArgs | None = QuantizationArgs()
    weights: QuantizationArgs | None = QuantizationArgs(symmetric=True)
    output_activations: QuantizationArgs | None = None
    target_hardware: str | None = None

    @model_validator(mode="after")
    def _can_be_run(self) -> Self:
        if self.weights is None or not self.weights.symmetric:
            raise ValueError("weights must be quantized, and symmetric: true, which is what kernels for INT8 take")
        for activations in (self.input_activations, self.output_activations):
            if activations is not None and activations.strategy != "tensor":
                raise ValueError("activations can't have a scale for each channel; strategy must be tensor")
        return self


SCHEMES = {
    "default": QuantizationScheme(),
    "deepsparse": QuantizationScheme(target_hardware="deepsparse"),
    "tensorrt": QuantizationScheme(input_activations=QuantizationArgs(symmetric=True), target_hardware="tensorrt"),
}


def _scheme(value: object) -> object:
    if isinstance(value, str):
        if value not in SCHEMES:
            raise ValueError(f"must be a mapping or one of {', '.join(SCHEMES)}, not {value[:60]!a}")
        return SCHEMES[value]
    return value


Scheme = Annotated[QuantizationScheme, BeforeValidator(_scheme)]
NO_FUSION = "transformers have no Conv-BatchNorm pairs to fuse"


class QuantizationModifier(LastingModifier):
    """Trains with fake quantization from start_epoch on.

    Recipes of 2021-22 use the first set of fields, later ones the second; one modifier uses one of the two.
    """

    LEGACY: ClassVar[frozenset[str]] = frozenset(
        [
            "submodules",
            "quantize_embeddings",
            "reduce_range",
            "quantize_linear_activations",
            "quantize_conv_activations",
            "quantize_embedding_activations",
            "activation_bits",
            "weight_bits",
            "exclude_batchnorm",
            "exclude_module_types",
            "custom_quantizable_module_types",
            "activation_qconfig_kwargs",
            "weight_qconfig_kwargs",
            "tensorrt",
        ]
    )
    BY_SCHEME: ClassVar[frozenset[str]] = frozenset(("scheme", "scheme_overrides", "ignore", "strict"))
    without_effect: ClassVar[dict[str, str]] = {
        "model_fuse_fn_name": NO_FUSION,
        "model_fuse_fn_kwargs": NO_FUSION,
        "quantize_conv_activations": "transformers have no convolutions",
        "exclude_batchnorm": "batch normalization is never quantized",
        "num_calibration_steps": "ranges are learned from the training batches",
        "quantize_embedding_activations": "what an embedding gives is not quantized a second time",
        "freeze_bn_stats_epoch": "transformers have no batch normalization",
    }

    disable_quantization_observer_epoch: Epoch | None = None
    freeze_bn_stats_epoch: Epoch | None = None
    model_fuse_fn_name: str | None = None
    model_fuse_fn_kwargs: dict[str, Any] | None = None
    num_calibration_steps: Annotated[int, Field(ge=0, le=1_000_000)] | None = None

    submodules: Names | None = None
    quantize_embeddings: Switch = True
    reduce_range: Unsupported = False
    quantize_linear_activations: Switch = True
    quantize_conv_activations: Switch = True
    quantize_embedding_activations: Switch = True
    activation_bits: Eight = 8
    weight_bits: Eight = 8
    exclude_batchnorm: Switch = True
    exclude_module_types: Names | None = None
    custom_quantizable_module_types: Unsupported = None
    activation_qconfig_kwargs: Unsupported = None
    weight_qconfig_kwargs: Unsupported = None
    tensorrt: Switch = False

    scheme: Scheme | None = None
    scheme_overrides: dict[str, Scheme] | None = None
    ignore: Names | None = None
    strict: Switch = True

    @model_validator(mode="after")
    def _one_generation(self) -> Self:
        legacy, later = self.model_fields_set & self.LEGACY, self.model_fields_set & self.BY_SCHEME
        if legacy and later:
            raise ValueError(f"{sorted(legacy)[0]} and {sorted(later)[0]} belong to two generations of fields; use one")
        freeze = self.disable_quantization_observer_epoch
        if freeze is not None and 0 <= freeze <= self.start:
            raise ValueError(
                f"disable_quantization_observer_epoch {freeze:g} must come after start_epoch {self.start:g}: "
                "ranges are learned between the two"
            )
        return self

    @property
    def legacy(self) -> bool:
        """Whether the fields of 2021-22 are used."""
        return bool(self.model_fields_set & self.LEGACY)

    @property
    def layer_scheme(self) -> QuantizationScheme:
        """The scheme of a linear layer that no override names, whichever generation of fields said it."""
        if self.scheme is not None:
            return self.scheme
        chosen = SCHEMES["tensorrt" if self.tensorrt else "default"]
        if self.legacy and self.quantize_linear_activations:
            return chosen.model_copy(update={"output_activations": chosen.input_activations})
        return chosen

    @property
    def excluded_types(self) -> frozenset[str]:
        """Module types that stay in floating point, by class name."""
        return frozenset(("Softmax", *(self.exclude_module_types or ()), *(self.ignore or ())))

    @property
    def freeze_epoch(self) -> float:
        """Epoch at which scales stop moving; infinity if never."""
        freeze = self.disable_quantization_observer_epoch
        return math.inf if freeze is None or freeze == -1 else freeze

    def canonical_fields(self) -> dict[str, Any]:
        """The fields that were set: which ones are set decides the generation."""
        return self.model_dump(mode="json", exclude_unset=True)
