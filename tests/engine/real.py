"""A leaf of the project made small: its own parts, narrow and shallow, on a few toy images."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from htd.engine.config import load_config, save_config
from tests.configs.reduced import reduced_model

LEAF = str(Path(__file__).parents[2] / "configs" / "htd" / "htd_r50_fpn_1x.py")
CLASSES = 6


def real_config(
    toy: Path, output: Path, *overrides: str, leaf: str = LEAF, num_classes: int = CLASSES
) -> DictConfig:
    """Return the config of a short training of a leaf's model, HTD's if none is named, on a toy data set."""
    config = load_config(leaf)
    config.model = reduced_model(leaf, num_classes=num_classes)
    for part, name in (("train", "train"), ("test", "val")):
        node = config.dataloader[part]
        node.dataset.update(
            name=f"{toy.parent.name}_{Path(leaf).stem}_{name}",
            json_file=str(toy / "annotations" / f"instances_{name}.json"),
            image_root=str(toy / name),
        )
        node.mapper.augmentations[0].update(short_edge_length=64, max_size=96)
        node.num_workers = 0
    config.dataloader.train.total_batch_size = config.train.reference_batch_size = 2
    config.train.update(
        output_dir=str(output), init_checkpoint="", max_iter=4, device="cpu", eval_period=0, vis_period=0
    )
    config.train.checkpointer.period = 2
    config.lr_multiplier.warmup_iters = 1
    output.mkdir(parents=True, exist_ok=True)
    file = output / "leaf.yaml"
    save_config(config, file)
    return load_config(str(file), list(overrides))


def one_class(annotations: Path, target: Path, category: int) -> None:
    """Write an annotation file in which every object is of one class, under an id that is not the first."""
    data = json.loads(annotations.read_text())
    data["categories"] = [entry for entry in data["categories"] if entry["id"] == category]
    for entry in data["annotations"]:
        entry["category_id"] = category
    target.write_text(json.dumps(data))
