"""Published weights under our parameter names, with an account of every tensor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from htd.checkpoint.diagnose import explain, other_boxes, other_decoder
from htd.checkpoint.formats import COUNTER, Format, Rule, choose
from htd.checkpoint.report import ConversionReport
from htd.errors import UserError

# our name -> [(published name, rule, values in our layout)]
Placed = dict[str, list[tuple[str, Rule, Tensor]]]

_NO_COUNTER = "batch counter, which the model does not keep"
_NEW_SHAPE = "shape differs from that of a part that begins anew"


def convert(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    *,
    source: str | None = None,
    strict: bool = True,
    new: Sequence[str] = (),
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename published weights to the parameters of ``model``.

    Values are passed on, not copied, wherever their layout is ours. Batch counters
    (``num_batches_tracked``), which fixed statistics never read, are dropped where the model has
    none and begin at zero where the file has none.

    Args:
        state_dict: published name → tensor.
        model: a detector, or one of its parts (a head alone, say); its values are not read unless
            ``new`` asks for them, so it may be on the meta device.
        source: name of the format (see :data:`htd.checkpoint.formats.FORMATS`); None: recognized
            by the keys.
        strict: demand that every published tensor is used or ignored for a documented reason,
            that every parameter and buffer of the model is filled, and that all shapes agree.
            Otherwise take what fits and report the rest; where two names of one tensor differ, the
            one that the key map names first is taken.
        new: beginnings of our names; what begins so may be absent or of another shape in the file.
            It gets the model's own values (and stays out of the result if those are on the meta device).

    Returns:
        ``(weights, report)``: our name → tensor, and what became of every tensor. With ``strict``
        the weights load with ``load_state_dict(strict=True)``.

    Raises:
        UserError: unknown format or ``source``, a value that is no tensor, a prefix in ``new`` that
            no parameter has, weights that were trained with boxes of another convention or coding than
            the model's, a RetinaNet of other than nine anchors a cell (with SALT: of more than one), with
            ``strict`` a misfit (one error that lists all of them).
    """
    weights = _tensors(state_dict)
    form = choose(weights, source)
    own = model.state_dict()
    _check_new(new, own)
    report = ConversionReport(form.name, form.title)
    placed = _relative_to(own, _place(weights, form, report))
    _check_boxes(form, model, placed)
    result = _take(placed, own, tuple(new), report)
    _complete(result, own, tuple(new), report)
    if report.complete:
        _check_decoder(form, model, placed)
    else:
        report.hints += _hints(form, placed, model, report.missing)
        if strict:
            raise UserError(report.failure())
    return result, report


def _tensors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return detached tensors without the ``module.`` that a parallel wrapper adds."""
    wrong = [str(key) for key, value in state_dict.items() if not isinstance(value, Tensor)]
    if wrong:
        raise UserError(f"these entries of the state dict are no tensors: {', '.join(wrong)}")
    prefix = "module."
    wrapped = all(key.startswith(prefix) for key in state_dict)
    return {key[len(prefix) * wrapped :]: value.detach() for key, value in state_dict.items()}


def _check_new(new: Sequence[str], own: Iterable[str]) -> None:
    if isinstance(new, str):
        raise UserError(f"new is a sequence of name beginnings, not one string: {new!r}")
    idle = [prefix for prefix in new if not any(name.startswith(prefix) for name in own)]
    if idle:
        raise UserError(f"no parameter of the model begins with {', '.join(idle)}, so it cannot begin anew")


def _check_boxes(form: Format, model: nn.Module, placed: Placed) -> None:
    """Refuse weights that would fit by their shapes alone; to a part without RoI heads any boxes will do."""
    heads = getattr(model, "roi_heads", model)
    sentence = other_boxes(form, _shapes(placed), getattr(heads, "box_convention", None))
    if sentence:
        raise UserError(sentence)


def _check_decoder(form: Format, model: nn.Module, placed: Placed) -> None:
    """Refuse weights that fit by their names and shapes alone; to a part without a decoder any will do."""
    sentence = other_decoder(form, _shapes(placed), getattr(model, "decoder", None))
    if sentence:
        raise UserError(sentence)


def _place(weights: Mapping[str, Tensor], form: Format, report: ConversionReport) -> Placed:
    """Return our names with what the file has for each, the published name whose rule is first leading."""
    placed: Placed = defaultdict(list)
    for key, value in weights.items():
        reason = form.reason_to_ignore(key)
        found = form.place(key, weights)
        if reason is not None:
            report.ignored[key] = reason
        elif found is None:
            report.unmatched[key] = None
        else:
            target, rule = found
            placed[target].append((key, rule, rule.in_our_layout(value)))
    for entries in placed.values():
        entries.sort(key=lambda entry: form.rules.index(entry[1]))
    return placed


def _relative_to(own: Mapping[str, Tensor], placed: Placed) -> Placed:
    """Cut the path of the part that ``own`` belongs to from all names, if it is a part of a detector."""
    if any(name in own for name in placed):
        return placed
    paths: Counter[str] = Counter()
    for name in placed:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            paths[".".join(parts[:depth]) + "."] += ".".join(parts[depth:]) in own
    path, hits = paths.most_common(1)[0] if paths else ("", 0)
    return {name.removeprefix(path): entries for name, entries in placed.items()} if hits else placed


def _take(
    placed: Placed, own: Mapping[str, Tensor], new: tuple[str, ...], report: ConversionReport
) -> dict[str, Tensor]:
    """Return the tensors that fit, and note in the report what became of the others."""
    result = {}
    for name, entries in placed.items():
        (key, _, value), *others = entries
        if name not in own:
            for other, *_ in entries:
                if name.endswith(COUNTER) and _mean_beside(name) in own:
                    report.ignored[other] = _NO_COUNTER
                else:
                    report.unmatched[other] = name
            continue
        report.aliases.update({other: key for other, *_ in others})
        if not all(_equal(value, same) for _, _, same in others):
            report.conflicts[name] = [other for other, *_ in entries]
        if value.shape == own[name].shape:
            result[name] = value
            report.used[key] = name
        elif name.startswith(new):
            report.ignored[key] = _NEW_SHAPE
        else:
            report.mismatched[name] = (key, tuple(value.shape), tuple(own[name].shape))
    return result


def _complete(
    result: dict[str, Tensor], own: Mapping[str, Tensor], new: tuple[str, ...], report: ConversionReport
) -> None:
    """Fill in what may be absent from the file, and note what should not be."""
    for name, value in own.items():
        if name in result or name in report.mismatched:
            continue
        if name.startswith(new):
            report.new.append(name)
            if not value.is_meta:
                result[name] = value
        elif name.endswith(COUNTER) and _mean_beside(name) in result:
            report.counters.append(name)
            result[name] = torch.zeros(value.shape, dtype=value.dtype)
        else:
            report.missing.append(name)


def _hints(form: Format, placed: Placed, model: nn.Module, missing: list[str]) -> list[str]:
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return explain(form, _shapes(placed), shapes, missing, getattr(model, "decoder", None))


def _shapes(placed: Placed) -> dict[str, tuple[int, ...]]:
    return {name: tuple(entries[0][2].shape) for name, entries in placed.items()}


def _mean_beside(counter: str) -> str:
    """Return the name of the running mean of the batch norm that a counter belongs to."""
    return counter.removesuffix(COUNTER) + "running_mean"


def _equal(first: Tensor, second: Tensor) -> bool:
    """Compare values; on the meta device, where there are none, shapes."""
    if first.is_meta or second.is_meta:
        return first.shape == second.shape
    return torch.equal(first, second)
