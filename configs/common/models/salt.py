"""SALT-Net, ResNet-50, FPN: GFL with the operator behind its towers; and the operator for any dense model."""

from detectron2.config import LazyCall as L

from htd.errors import UserError
from htd.modeling.dense import AssignedMetric, QualityPredictors
from htd.modeling.salt import AssignedBox, CoarseBoxLoss, CoarseWeightSum, SALTOperator, SALTTowers

from .dense import term
from .gfl import model


def plug_in_salt(model, residual=True, norm="GN"):
    """Put the operator, in place, behind the towers of any dense model, and train its coarse boxes.

    Their loss has the weights and the normalizer of the host's box loss, which has to be named
    ``loss_box_reg``, and half of its factor. ``residual`` is the adapter's, ``norm`` the operator's.
    """
    if not {"head", "criterion"} <= set(model):
        raise UserError("plug_in_salt: the model has no head and criterion; take that of a dense detector")
    head = model.head
    if "operator" in head.towers:
        raise UserError("plug_in_salt: model.head.towers have the SALT operator already; plug it in once")
    operator = L(SALTOperator)(
        channels="${..towers.channels}", num_levels=len(model.head_in_features), norm=norm, coarse=True
    )
    for name in ("channels", "num_layers"):
        if name in head.predictors:
            head.predictors[name] = f"${{..towers.towers.{name}}}"
    head.towers = L(SALTTowers)(towers=head.towers, operator=operator, residual=residual)
    phases = [model.criterion[name] for name in ("initial", "aligned") if name in model.criterion]
    for criterion in phases or [model.criterion]:
        criterion.terms.append(_coarse_term(criterion.terms))


def deform_further(model):
    """Turn, in place, a model with two deformable stages into the larger published one of its backbone."""
    model.backbone.bottom_up.deform_stages = ["res3", "res4", "res5"]
    model.backbone.norm = "GN"
    model.head.towers.towers.deformable_last = True


def _coarse_term(terms):
    """The loss of coarse boxes beside the losses of a criterion."""
    host = next((each for each in terms if each.name == "loss_box_reg"), None)
    if host is None:
        raise UserError(
            "plug_in_salt: model.criterion has no term named loss_box_reg, whose weights those of coarse "
            f"boxes are; there are {', '.join(each.name for each in terms)}"
        )
    # What does not weight its boxes counts every object's alike, and by cells, which share a coarse box.
    weighting = host.loss.get("weighting") or L(AssignedMetric)()
    return term(
        "loss_box_reg_init",
        L(CoarseBoxLoss)(weighting=weighting, target=L(AssignedBox)(), eps=1e-7),
        L(CoarseWeightSum)(weighting=weighting, least=host.normalizer.least),
        weight=host.weight / 2,
    )


plug_in_salt(model)
model.head.towers.towers.num_convs = 3
model.head.predictors = L(QualityPredictors)(
    num_classes="${...num_classes}",
    channels="${..towers.towers.channels}",
    num_levels=5,
    box_dim=68,
    box_rule=model.head.predictors.box_rule,
    prior_probability=0.01,
    # 1 for published weights, which have a class more than there are.
    extra_classes=0,
    topk=4,
    hidden=64,
)
