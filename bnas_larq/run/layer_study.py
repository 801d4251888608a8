"""The layer study: which kinds of convolution survive binarisation (BNAS, arXiv 2002.06963).

Every network is a plain stack: each cell has one node, which reads the previous cell through the
operation that is studied. Only the template's 1×1 convolution stands in front of it.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from bnas_larq.errors import RecipeError
from bnas_larq.files import write_json
from bnas_larq.genotype import Edge, Genotype
from bnas_larq.recipe import Recipe
from bnas_larq.report import layer_study_report as report
from bnas_larq.report.pictures import read_confusion
from bnas_larq.run.inputs import RunInputs
from bnas_larq.run.searchers import check_inputs
from bnas_larq.run.study import Study
from bnas_larq.run.team import Team
from bnas_larq.settings import NetworkSettings
from bnas_larq.spaces import check_operation

#: The paper's names of layers → operations of genotypes.
OPERATIONS = {
    "conv_3x3": "bin_conv_3x3",
    "conv_5x5": "bin_conv_5x5",
    "dil_3x3": "bin_dil_conv_3x3",
    "dil_5x5": "bin_dil_conv_5x5",
    "sep_3x3": "bin_sep_conv_3x3",
    "sep_5x5": "bin_sep_conv_5x5",
}
#: Operations with a depthwise convolution.
DEPTHWISE = {f"bin_{kind}_conv_{size}" for kind in ("sep", "dil_sep") for size in ("3x3", "5x5")}
#: The quantisation scheme of each row of the table.
SCHEMES = {"full": "full-precision", "binary": "sign-scale-centred", "uncentred": "sign-scale"}
#: Options of the section `network` that a scheme that binarises nothing refuses.
_UNBINARISED = {
    key: NetworkSettings.model_fields[key].default
    for key in ("activations", "kernels", "activation_gradient", "activation_clip")
}


class Member(NamedTuple):
    """One network of the study."""

    precision: str
    layer: str

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"{self.precision}-{self.layer}"

    @property
    def operation(self) -> str:
        """The operation on its edges; a layer that the paper does not name is one itself."""
        return OPERATIONS.get(self.layer, self.layer)

    def genotype(self) -> Genotype:
        """Both cells with one node, which reads the previous cell."""
        cell = ((Edge(self.operation, 1),),)
        return Genotype(cell, cell, f"stack-{self.layer}", {"source": "layer study"})


def check_study(recipe: Recipe) -> None:
    """Check that a recipe's study can be built.

    Raises:
        RecipeError: the recipe also names a genotype or source, or the layers or precisions are
            empty or repeated.
        GenotypeError: an unknown layer.
    """
    for key in ("genotype", "finetune"):
        if getattr(recipe, key) is not None:
            raise RecipeError(
                f"A layer study builds its own networks. Received: {key} with layer_study. "
                "Omit one of them."
            )
    study = recipe.layer_study
    for key in ("layers", "precisions"):
        names = getattr(study, key)
        if not names or len(set(names)) != len(names):
            raise RecipeError(
                f"A layer study needs one or more {key}, each named once. "
                f"Received: {list(names)}. Correct layer_study.{key}."
            )
    for layer in study.layers:
        check_operation(OPERATIONS.get(layer, layer))
    if not members(recipe):
        raise RecipeError(
            "Only separable layers have depthwise kernels to leave uncentred. "
            f"Received: precisions [uncentred] for {', '.join(study.layers)}. Add a precision."
        )


def members(recipe: Recipe) -> list[Member]:
    """All networks of a study, row by row.

    The row `uncentred` has separable layers only: without a depthwise convolution it would repeat
    the row `binary`.
    """
    study = recipe.layer_study
    return [
        member
        for member in itertools.starmap(Member, itertools.product(study.precisions, study.layers))
        if member.precision != "uncentred" or member.operation in DEPTHWISE
    ]


def _member_recipe(recipe: Recipe, member: Member, folder: Path) -> Recipe:
    """The recipe of one network of the study in `folder`, which is to hold its genotype."""
    network = recipe.network
    if member.precision == "full":
        network = network.model_copy(update=_UNBINARISED)
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}-{member.name}",
            "genotype": str((folder / "genotypes" / f"{member.layer}.json").resolve()),
            "layer_study": None,
            "network": network.model_copy(update={"scheme": SCHEMES[member.precision]}),
        }
    )


class LayerStudy(Study):
    """The networks of the section `layer_study`."""

    @classmethod
    def create(cls, recipe: Recipe, out: str | Path | None = None, **settings: Any) -> LayerStudy:
        check_study(recipe)
        return super().create(recipe, out, **settings)

    @staticmethod
    def check(inputs: RunInputs, team: Team) -> None:
        for member in members(inputs.recipe):
            recipe = _member_recipe(inputs.recipe, member, inputs.folder.path)
            own = RunInputs(inputs.folder, recipe, inputs.data)
            own.given_genotype = member.genotype()
            check_inputs(own, ("train",))

    def names(self) -> list[str]:
        return [member.name for member in members(self.recipe)]

    def recipe_of(self, name: str) -> Recipe:
        (member,) = (member for member in members(self.recipe) if member.name == name)
        recipe = _member_recipe(self.recipe, member, self.folder.path)
        member.genotype().save(recipe.genotype)
        return recipe

    def write(self) -> tuple[str, Path]:
        networks = [self._facts(member) for member in members(self.recipe)]
        done = [facts for facts in networks if facts["test_accuracy"] is not None]
        settings = self.recipe.network
        title = (
            f"Networks of one kind of layer: {self.recipe.data.name}, {settings.cells} layers, "
            f"{settings.channels} channels, {self.recipe.train.epochs} epochs"
        )
        path = write_json(
            self.folder / "layer_study.json",
            {
                "recipe": self.recipe.name,
                "seed": self.recipe.seed,
                "data": self.recipe.data.name,
                "finished": len(done) == len(networks),
                "networks": networks,
            },
        )
        report.save_layer_csv(networks, self.folder / "layer_study.csv")
        report.save_layer_picture(networks, self.folder / "layer_study.png", title)
        return f"{title}\n\n{report.layer_table(networks)}", path

    def _facts(self, member: Member) -> dict[str, Any]:
        """One network's entry of layer_study.json."""
        result = self.result(member.name)
        table = read_confusion(self.path(member.name) / "confusion.csv") if result else None
        counts = [] if table is None else table[0]
        on_cifar10 = self.recipe.data.name == "cifar10"
        return {
            **member._asdict(),
            "operation": member.operation,
            "scheme": SCHEMES[member.precision],
            "test_accuracy": result.get("test_accuracy"),
            "published_accuracy": report.published_accuracy(*member) if on_cifar10 else None,
            "classes": len(counts) or None,
            "classes_predicted": sum(any(column) for column in zip(*counts, strict=True)) or None,
            "cost": result.get("cost"),
            "seconds": result.get("wall_seconds"),
            "folder": self.path(member.name).relative_to(self.folder.path).as_posix(),
        }
