from __future__ import annotations

import pytest
import torch

from zoo.errors import TrainingError
from zoo.train.distillation import (
    LayerOutputs,
    ModelTeacher,
    RememberedTeacher,
    distillation_loss,
    judged_tokens,
    layer_loss,
    teacher_inputs,
)


def test_equals_the_formula_of_sparseml() -> None:
    student, teacher, temperature = torch.randn(3, 5), torch.randn(3, 5), 2.0
    p = torch.softmax(teacher / temperature, -1)
    log_q = torch.log_softmax(student / temperature, -1)
    expected = (p * (p.log() - log_q)).sum() / 3 * temperature**2
    got = distillation_loss({"a": student}, {"a": teacher}, ["a"], temperature, None)
    assert torch.allclose(got, expected, atol=1e-6)


def test_mean_over_outputs_and_zero_for_equal_ones() -> None:
    outputs = {"a": torch.randn(2, 4), "b": torch.randn(2, 4)}
    assert distillation_loss(outputs, outputs, ["a", "b"], 2.0, None).abs() < 1e-6
    teacher = {"a": outputs["a"], "b": torch.randn(2, 4)}
    one = distillation_loss(outputs, teacher, ["b"], 2.0, None)
    assert torch.allclose(distillation_loss(outputs, teacher, ["a", "b"], 2.0, None), one / 2, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 5.5, 1000.0])
def test_padding_does_not_count(temperature: float) -> None:
    student, teacher = torch.randn(2, 6), torch.randn(2, 6)
    mask = torch.ones(2, 9)
    mask[:, 6:] = 0
    padded = [torch.cat([x, torch.randn(2, 3) * 50], 1).requires_grad_() for x in (student, teacher)]
    short = distillation_loss({"a": student}, {"a": teacher}, ["a"], temperature, None)
    long = distillation_loss({"a": padded[0]}, {"a": padded[1]}, ["a"], temperature, mask)
    assert torch.allclose(short, long, atol=1e-4)
    long.backward()
    assert padded[0].grad is not None
    assert torch.isfinite(padded[0].grad).all()
    assert padded[0].grad[:, 6:].abs().max() == 0


def test_padding_masks_no_classes() -> None:
    """Even where there are as many of them as tokens."""
    student, teacher, mask = torch.randn(2, 8), torch.randn(2, 8), torch.ones(2, 8)
    mask[:, 5:] = 0
    expected = distillation_loss({"logits": student}, {"logits": teacher}, ["logits"], 2.0, None)
    assert torch.equal(distillation_loss({"logits": student}, {"logits": teacher}, ["logits"], 2.0, mask), expected)
    assert torch.equal(layer_loss([student], [teacher], mask), layer_loss([student], [teacher], None))


def test_only_tokens_that_are_judged_count_where_each_has_classes() -> None:
    student, teacher, mask = torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    labels = torch.tensor([[-100, 2, -100, -100], [0, 1, -100, -100]])

    def loss(judged: torch.Tensor | None) -> torch.Tensor:
        return distillation_loss({"logits": student}, {"logits": teacher}, ["logits"], 2.0, mask, judged)

    def of_rows(rows: torch.Tensor) -> torch.Tensor:
        return distillation_loss({"a": student[rows]}, {"a": teacher[rows]}, ["a"], 2.0, None)

    judged = judged_tokens({"input_ids": mask, "labels": labels})
    assert torch.allclose(loss(None), of_rows(mask != 0))
    assert torch.allclose(loss(judged), of_rows(labels >= 0))
    assert loss(torch.zeros(2, 4)) == 0
    assert judged_tokens({"input_ids": mask, "labels": labels[:, 0]}) is None
    assert judged_tokens({"labels": labels}) is None


def test_different_shapes_and_missing_outputs_are_named() -> None:
    with pytest.raises(TrainingError, match=r"'a' in different shapes: \(2, 4\) and \(2, 5\)"):
        distillation_loss({"a": torch.zeros(2, 4)}, {"a": torch.zeros(2, 5)}, ["a"], 1.0, None)
    with pytest.raises(TrainingError, match="'b'; student and teacher share a"):
        distillation_loss({"a": torch.zeros(2, 4)}, {"a": torch.zeros(2, 4)}, ["b"], 1.0, None)


def test_outputs_without_names_in_common_are_explained() -> None:
    with pytest.raises(
        TrainingError, match=r"share no output to distil: the student gives nothing, the teacher logits"
    ):
        distillation_loss({}, {"logits": torch.zeros(2, 4)}, [], 1.0, None)


def test_a_teacher_is_asked_with_the_inputs_that_the_recipe_names_and_the_features_they_are() -> None:
    inputs = {"input_ids": 1, "token_type_ids": 2, "feature_index": 3}
    assert teacher_inputs(inputs, None) == inputs
    assert teacher_inputs(inputs, ["input_ids"]) == {"input_ids": 1, "feature_index": 3}
    with pytest.raises(TrainingError, match="teacher_input_keys names 'ids'; a batch has input_ids, token_type_ids"):
        teacher_inputs(inputs, ["ids"])


def test_a_model_teaches_without_gradients_and_without_labels() -> None:
    class Doubler(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": super().forward(x), "loss": torch.zeros(())}

    outputs = ModelTeacher(Doubler(3, 2))({"x": torch.ones(1, 3), "start_positions": torch.ones(1)})
    assert list(outputs) == ["logits"]
    assert not outputs["logits"].requires_grad


def test_remembered_outputs_come_back_padded_to_the_batch() -> None:
    teacher = RememberedTeacher({"a": [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]})
    inputs = {"feature_index": torch.tensor([1, 0]), "input_ids": torch.zeros(2, 3)}
    assert teacher(inputs)["a"].tolist() == [[3, 0, 0], [1, 2, 0]]


def test_remembered_layers_are_those_of_the_batch_asked_for_last() -> None:
    rows = [torch.ones(2, 3), torch.full((1, 3), 2.0)]
    teacher = RememberedTeacher({"a": [row[:, 0] for row in rows]}, {"layer.0": rows})
    layers = teacher.watch(["layer.0"])
    for chosen in ([1, 0], [0]):
        teacher({"feature_index": torch.tensor(chosen), "input_ids": torch.zeros(len(chosen), 4)})
        assert [row.sum(1).tolist() for row in layers["layer.0"]] == [[[3, 3, 0, 0], [6, 0, 0, 0]][i] for i in chosen]
    with pytest.raises(TrainingError, match=r"'layer\.1' was not remembered"):
        teacher.watch(["layer.0", "layer.1"])


def test_remembered_classes_and_poolers_are_not_padded() -> None:
    classes, pooled = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], [torch.ones(3), torch.zeros(3)]
    teacher = RememberedTeacher({"logits": classes}, {"pooler": pooled})
    inputs = {"feature_index": torch.tensor([1, 0, 1]), "input_ids": torch.zeros(3, 5)}
    assert teacher(inputs)["logits"].tolist() == [[3, 4], [1, 2], [3, 4]]
    assert teacher.watch(["pooler"])["pooler"].tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]


def test_layers_are_compared_by_the_formula_of_sparseml() -> None:
    student, teacher = [torch.randn(2, 3, 4), torch.randn(2, 3, 5)], [torch.randn(2, 3, 4), torch.randn(2, 3, 5)]
    errors = [((s - t) ** 2).mean() for s, t in zip(student, teacher, strict=True)]
    sizes = [(t**2).mean() + 1e-6 for t in teacher]
    assert torch.allclose(layer_loss(student, teacher, None), errors[0] / sizes[0] + errors[1] / sizes[1])
    assert torch.allclose(layer_loss(student, teacher, None, normalize=False), errors[0] + errors[1])


def test_padding_of_layers_does_not_count() -> None:
    student, teacher = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    mask = torch.ones(2, 6)
    mask[:, 4:] = 0
    padded = [torch.cat([x, torch.randn(2, 2, 3) * 50], 1) for x in (student, teacher)]
    expected = layer_loss([student], [teacher], torch.ones(2, 4))
    assert torch.allclose(layer_loss([padded[0]], [padded[1]], mask), expected)


def test_layers_of_different_shapes_and_unknown_layers_are_named() -> None:
    with pytest.raises(TrainingError, match=r"different shapes: \(1, 2, 3\) and \(1, 2, 4\)"):
        layer_loss([torch.zeros(1, 2, 3)], [torch.zeros(1, 2, 4)], None)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with pytest.raises(TrainingError, match=r"no layer '2' to distil; near to it are"):
        LayerOutputs(model, ["0", "2"])


def test_a_watched_layer_is_found_again_after_it_was_replaced() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    outputs = LayerOutputs(model, ["0"])
    model[0] = torch.nn.Linear(2, 3)
    outputs.watch()
    model(torch.ones(1, 2))
    assert outputs["0"].shape == (1, 3)
    outputs.stop()
    with pytest.raises(TrainingError, match="gave no tensor"):
        outputs["0"]
