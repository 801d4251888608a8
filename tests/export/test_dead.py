"""Dead branches of Zeroise, told from the genotype."""

from __future__ import annotations

from bnas_larq.export.lint import dead_branches
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig, build_network


def test_the_published_cifar_cell_has_the_dead_branches_that_its_paper_implies():
    config = NetworkConfig(cells=6, channels=4)
    normal, reduce = dead_branches(Genotype.load("bnas_cifar"), config)
    assert (normal.edges, normal.zeroise) == (reduce.edges, reduce.zeroise) == (8, 6)
    assert (normal.unread, normal.zero_nodes) == ((), (2, 3))
    assert (reduce.unread, reduce.zero_nodes) == (("newer",), (2, 3))
    assert reduce.absent == ("cell2_preprocess1", "cell4_preprocess1")
    names = {layer.name for layer in build_network(Genotype.load("bnas_cifar"), config).layers}
    for absent in reduce.absent:
        assert f"{absent}_conv" not in names
        assert f"{absent.replace('1', '0')}_conv" in names
    assert reduce.sentences() == [
        "reduce cell: no operation reads its newer input: not built are cell2_preprocess1, "
        "cell4_preprocess1",
        "reduce cell: nodes 2, 3 are nothing but Zeroise, zeros in its output",
    ]


def test_a_cell_without_zeroise_has_none():
    for dead in dead_branches(Genotype.load("bnas_imagenet")):
        assert dead.sentences() == [] and dead.zeroise == 0


def test_what_reads_only_zeros_is_the_same_for_every_image():
    cell = (
        (("none", 0), ("none", 1)),
        (("bin_conv_3x3", 2), ("none", 0)),
        (("max_pool_3x3", 3), ("bin_conv_3x3", 2)),
        (("max_pool_3x3", 3), ("bin_conv_3x3", 1)),
    )
    normal, _ = dead_branches(Genotype(cell, cell))
    assert (normal.zero_nodes, normal.constant_nodes) == ((0,), (1, 2))
    assert normal.unread == ("older",)
    assert any("nodes 1, 2 are reading only zeros" in text for text in normal.sentences())
