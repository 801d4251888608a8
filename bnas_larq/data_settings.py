"""A recipe's section `data`."""

from __future__ import annotations

from typing import Literal

import pydantic

from bnas_larq.setting_types import ColorValue, Large, Natural, Section, Side, UserPath


class AugmentationSettings(Section):
    """Augmentation of training images; see `bnas_larq.data.Augmentation`."""

    crop_padding: Natural = 0
    crop_mode: Literal["black", "reflect"] = "black"
    flip: bool | Literal["alternating"] = False
    random_resized_crop: bool = False
    color_jitter: tuple[float, float, float, float] | None = None
    cutout: Natural = 0


class DataSettings(Section):
    """The data set; see `bnas_larq.data.load_dataset`.

    Attributes:
        evaluation: how pictures of other sizes get `image_size`. `resize`, the default, shows the
            network all of a picture, which nobody needs to have framed for it; `center-crop` keeps
            proportions but not the margins, as ImageNet networks are measured. Random resized
            crops are cut from the original picture with either.
        crop_share: of `center-crop`: the share of the largest central part that is kept.
        background: red, green and blue behind transparent pictures.
    """

    name: str = "digits"
    data_dir: UserPath | None = None
    image_size: Side | tuple[Side, Side] | None = None
    evaluation: Literal["resize", "center-crop"] = "resize"
    crop_share: float = pydantic.Field(0.875, gt=0, le=1)
    validation_fraction: float = pydantic.Field(0.1, ge=0, lt=1)
    limit: Large | None = None
    memory_limit_mb: Large = 2000
    background: tuple[ColorValue, ColorValue, ColorValue] = (255, 255, 255)
    augmentation: AugmentationSettings = AugmentationSettings()

    @pydantic.model_validator(mode="after")
    def _crops(self) -> DataSettings:
        if self.evaluation == "resize" and self.crop_share != 0.875:
            raise ValueError("crop_share needs evaluation: center-crop")
        if self.evaluation == "center-crop" and self.image_size is None:
            raise ValueError("evaluation: center-crop needs an image_size")
        return self
