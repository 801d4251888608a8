"""What a stage of a training learns from a teacher: a part of the section `train`."""

from __future__ import annotations

import pydantic

from bnas_larq.setting_types import Count, NotNegative, Section, Sha256, UserPath

_Colour = tuple[float, float, float]
#: The stage before, as a teacher or as what a stage starts from.
PREVIOUS = "previous"


class TeacherSettings(Section):
    """A trained network of the same images and classes that a stage learns from.

    The loss of a batch is the sum of

    - weight · T² · KL(teacher ‖ student), of softmaxes at temperature T (Hinton et al., arXiv
      1503.02531, whose T² keeps the gradient's scale at any T);
    - cross_entropy · cross-entropy of the labels;
    - attention · Σ ‖Q_s/‖Q_s‖₂ − Q_t/‖Q_t‖₂‖₂ over pairs of layers, Q the sum over channels of a
      layer's squared outputs (Martinez et al., arXiv 2003.11535).

    Attributes:
        model: a run's folder, a zoo entry or a saved Keras model; or `previous`, the network that
            the stage before has trained (Real-to-Binary).
        sha256: of its weight file; a run records it.
        temperature: T.
        layers: pairs for `attention`, student's layer: teacher's layer; None: at each resolution
            that both have, the last layer that adds or concatenates, or else the last one.
        mean, std: of the images of a saved Keras model, scaled to [0, 1]; None: as the run's own. A
            run or an entry knows its own.
        views: N: epoch e augments images as epoch e mod N does, so that each has N views; None for
            new ones in each epoch. Even with `flip: alternating`.
        cache: folder where the teacher's outputs for all views are kept, computed once. Several
            runs may share it.
    """

    model: UserPath
    sha256: Sha256 | None = None
    temperature: float = pydantic.Field(4.0, gt=0)
    weight: NotNegative = 0.9
    cross_entropy: NotNegative = 0.1
    attention: NotNegative = 0.0
    layers: dict[str, str] | None = None
    mean: _Colour | None = None
    std: _Colour | None = None
    views: Count | None = None
    cache: UserPath | None = None

    @pydantic.model_validator(mode="after")
    def _teaches(self) -> TeacherSettings:
        problems = {
            "a teacher needs a weight or attention": not self.weight and not self.attention,
            "temperature needs a weight": not self.weight and self.temperature != 4.0,
            "layers need attention": self.layers is not None and not self.attention,
            "cache needs views": self.cache is not None and self.views is None,
            "cache holds outputs alone, and attention needs layers": (
                self.cache is not None and self.attention > 0
            ),
            "mean and std go together": (self.mean is None) != (self.std is None),
            "the previous stage has no sha256, mean or cache": self.is_previous
            and any((self.sha256, self.mean, self.cache)),
        }
        for problem, present in problems.items():
            if present:
                raise ValueError(problem)
        return self

    @property
    def is_previous(self) -> bool:
        """Whether it is the network of the stage before."""
        return self.model == PREVIOUS
