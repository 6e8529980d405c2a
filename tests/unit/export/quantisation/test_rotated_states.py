import numpy as np
import pytest

from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.quantisation.rotated_checkpoint import (
    UNROTATION,
    _signs,
    rotate_states,
    with_rotated_states,
)
from unit.export.checkpoints import write_folder


@pytest.mark.parametrize("size", [1, 2, 7, 24, 64, 96, 576, 1024, 4096])
def test_the_rotation_is_orthogonal(size):
    rows = min(size, 200)
    part = rotate_states(np.eye(size, dtype=np.float32)[:rows])
    assert part.dtype == np.float32
    np.testing.assert_allclose(part @ part.T, np.eye(rows), atol=2e-6)


@pytest.mark.parametrize("size", [576, 896, 1024, 4096])
def test_it_spreads_outliers_and_what_all_channels_share(size):
    outlier = np.zeros((1, size), np.float32)
    outlier[0, size // 3] = 100
    common = np.ones((1, size), np.float32)
    for values in (outlier, common):
        rotated = np.abs(rotate_states(values))
        even = np.linalg.norm(values) / np.sqrt(size)  # had all elements the same size
        assert rotated.max() < 4.5 * even


@pytest.fixture
def checkpoint(tmp_path):
    return open_checkpoint(write_folder(tmp_path / "hf"))


def test_each_layer_reads_and_writes_rotated_states(checkpoint):
    rotated = with_rotated_states(checkpoint)
    hidden = np.random.default_rng(0).standard_normal((5, checkpoint.config.hidden_size))
    hidden = hidden.astype(np.float32)
    read = checkpoint.read
    for name, norm in (
        ("layers.1.self_attn.k_proj.weight", "layers.1.input_layernorm.weight"),
        ("layers.0.mlp.up_proj.weight", "layers.0.post_attention_layernorm.weight"),
    ):
        expected = hidden * read(norm) @ read(name).T
        found = rotate_states(hidden) * rotated.read(norm) @ rotated.read(name).T
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert (rotated.read(norm) == 1).all()
    name = "layers.0.mlp.down_proj.weight"
    inner = np.ones((1, checkpoint.shape(name)[1]), np.float32)
    written = inner @ rotated.read(name).T
    np.testing.assert_allclose(written, rotate_states(inner @ read(name).T), atol=1e-4)
    back = rotate_states(hidden) * rotated.read("norm.weight") @ rotated.read(UNROTATION)
    np.testing.assert_allclose(back, hidden * read("norm.weight"), atol=1e-4)


def test_the_rest_stays(checkpoint):
    rotated = with_rotated_states(checkpoint)
    assert rotated.names() - checkpoint.names() == {UNROTATION}
    assert rotated.shape(UNROTATION) == rotated.read(UNROTATION).shape
    for name in checkpoint.names():
        assert rotated.read(name).shape == rotated.shape(name) == checkpoint.shape(name)
    assert rotated.config == checkpoint.config
    assert rotated.location == checkpoint.location


def test_the_signs_follow_pairs_of_ones():
    """The definition of https://oeis.org/A020985, where `_signs` has a recurrence."""
    pairs = [bin(n & (n >> 1)).count("1") for n in range(100)]
    assert _signs(100).tolist() == [(-1) ** count for count in pairs]
