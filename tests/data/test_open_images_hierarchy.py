"""OpenImages' hierarchy: which classes stand above each class, and what is said of faulty files."""

import json

import pytest

from htd.data import read_classes
from htd.data.open_images.hierarchy import read_ancestors
from htd.errors import UserError

TREE = {
    "LabelName": "/m/entity",
    "Subcategory": [
        {"LabelName": "/m/b", "Subcategory": [{"LabelName": "/m/a"}, {"LabelName": "/m/c"}]},
        {"LabelName": "/m/c", "Part": [{"LabelName": "/m/b"}]},
    ],
}


def ancestors(folder, tree, relations=("Subcategory",), labels="abcd"):
    (folder / "classes.csv").write_text("".join(f"LabelName,DisplayName\n/m/{x},{x}\n" for x in labels))
    (folder / "hierarchy.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    classes = read_classes(folder / "classes.csv")
    return read_ancestors(folder / "hierarchy.json", classes, relations).astype(int).tolist()


def test_hierarchy(tmp_path):
    """a and c below b; c also directly below the root and, as a whole, above b."""
    assert ancestors(tmp_path, TREE) == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    with pytest.raises(UserError, match="has a cycle: /m/b below /m/c below /m/b; take one of these"):
        ancestors(tmp_path, TREE, ["Subcategory", "Part"])
    # A label that is no class passes on what is above it; a class may have several parents.
    between = {"LabelName": "/m/other", "Subcategory": [{"LabelName": "/m/a"}]}
    tree = {"LabelName": "/m/d", "Subcategory": [between, {"LabelName": "/m/b", "Part": [between]}]}
    assert ancestors(tmp_path, tree)[0] == [1, 0, 0, 1]
    assert ancestors(tmp_path, tree, ["Subcategory", "Part"])[0] == [1, 1, 0, 1]


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"LabelName": "/m/a", "Subcategory": [{"LabelName": "/m/a"}]}, "cycle: /m/a below /m/a;"),
        ("{", "hierarchy .*hierarchy.json is not JSON"),
        ({"LabelName": "/m/x"}, "has none of the 4 classes of"),
        ([], "an entry below the top has no LabelName"),
        ({"LabelName": "/m/a", "Subcategory": ["/m/b"]}, "an entry below /m/a has no LabelName"),
        ({"LabelName": "/m/a", "Subcategory": {"LabelName": "/m/b"}}, "Subcategory of /m/a is not a list"),
        ({"LabelName": "/m/a", "Subcategory": None}, "hierarchy.json: Subcategory of /m/a is not a list"),
        ({"LabelName": "/m/a", "Subcategory": 3}, "Subcategory of /m/a is not a list"),
        ('{"LabelName": "/m/a", "Subcategory": [' * 100_000, "hierarchy .* is nested too deeply"),
    ],
)
def test_faulty_hierarchy(tmp_path, tree, said):
    with pytest.raises(UserError, match=said):
        ancestors(tmp_path, tree)


def test_a_cycle_of_labels_that_are_no_classes_is_found(tmp_path):
    """Also where no class stands below it."""
    circle = {
        "LabelName": "/m/y",
        "Subcategory": [{"LabelName": "/m/x", "Subcategory": [{"LabelName": "/m/y"}]}],
    }
    with pytest.raises(UserError, match="has a cycle: /m/x below /m/y below /m/x; take one of these"):
        ancestors(tmp_path, {"LabelName": "/m/root", "Subcategory": [{"LabelName": "/m/a"}, circle]})


def test_a_long_chain(tmp_path):
    """Of 1500 labels, each below the next one, in entries that are not nested: a stands below all of them."""
    entries = [{"LabelName": f"/m/{k + 1}", "Subcategory": [{"LabelName": f"/m/{k}"}]} for k in range(1500)]
    tree = {
        "LabelName": "/m/b",
        "Subcategory": [*entries, {"LabelName": "/m/0", "Subcategory": [{"LabelName": "/m/a"}]}],
    }
    assert ancestors(tmp_path, tree)[0] == [1, 1, 0, 0]
