"""Checkpoints come back bit by bit, inputs stay, and what is aligned computes what B computes."""

import hashlib
import itertools
import json
import os
import pickle
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from experiments.__main__ import main
from experiments.align import AlignCheckpoints, files
from experiments.align.files import Checkpoint, flat, load, nested, save
from experiments.align.guess import guess
from experiments.errors import AmbiguousUnitsError, CheckpointError, UsageError
from pfn_optax.align import distance

ENDINGS = (".safetensors", ".npz", "")
SIZES = (5, 8, 6, 3)


def torch_mlp(seed, sizes=SIZES):
    draw = np.random.default_rng(seed)
    arrays = {}
    for layer, (before, after) in enumerate(itertools.pairwise(sizes), 1):
        arrays[f"fc{layer}.weight"] = draw.standard_normal((after, before)).astype(np.float32)
        arrays[f"fc{layer}.bias"] = draw.standard_normal(after).astype(np.float32)
    return arrays


def flax_mlp(seed, sizes=SIZES):
    draw = np.random.default_rng(seed)
    arrays = {}
    for layer, pair in enumerate(itertools.pairwise(sizes)):
        arrays[f"params/Dense_{layer}/kernel"] = draw.standard_normal(pair).astype(np.float32)
        arrays[f"params/Dense_{layer}/bias"] = draw.standard_normal(pair[1]).astype(np.float32)
    return arrays


def of_arrays(arrays, metadata=None):
    return Checkpoint(nested(Path("test"), arrays), tuple(arrays), metadata)


def predict(params, x):
    """Takes both kinds of names; `--model` in the tests."""
    if "params" in params:
        layers = [(p["kernel"], p["bias"]) for _, p in sorted(params["params"].items())]
    else:
        layers = [(params[f"fc{i}.weight"].T, params[f"fc{i}.bias"]) for i in (1, 2, 3)]
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    return x @ layers[-1][0] + layers[-1][1]


def other_predict(params, x):
    """Reads one of the units by itself."""
    return predict(params, x) + params["fc1.bias"][0]


def digest(path):
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            found.update(str(file.relative_to(path.parent)).encode() + file.read_bytes())
    return found.hexdigest()


def assert_bit_equal(left, right):
    left, right = flat(left), flat(right)
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype
        assert array.shape == right[name].shape
        assert array.tobytes() == right[name].tobytes()


@pytest.fixture
def pair(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        save(tmp_path / f"{name}.npz", of_arrays(torch_mlp(seed)))
    return tmp_path / "a.npz", tmp_path / "b.npz"


class TestFiles:
    @pytest.mark.parametrize("ending", ENDINGS)
    def test_round_trip(self, tmp_path, ending):
        arrays = {
            "net/kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T,
            "net/bias": np.array([np.nan, -0.0, np.inf], np.float64),
            "net.2/half": np.ones(3, np.float16),
            "steps": np.array(7, np.int64),
            "is_on": np.array([True, False]),
            "empty": np.zeros((0, 3), np.float32),
        }
        if not ending:
            del arrays["empty"]  # Orbax writes none
        checkpoint = of_arrays(arrays)
        save(tmp_path / f"c{ending}", checkpoint)
        assert_bit_equal(load(tmp_path / f"c{ending}"), checkpoint)
        assert [path.name for path in tmp_path.iterdir()] == [f"c{ending}"]

    @pytest.mark.parametrize("ending", [".safetensors", ""])
    def test_bfloat16(self, tmp_path, ending):
        checkpoint = of_arrays({"w": np.arange(4).astype(ml_dtypes.bfloat16)})
        save(tmp_path / f"c{ending}", checkpoint)
        assert_bit_equal(load(tmp_path / f"c{ending}"), checkpoint)

    def test_npz_does_not_hold_bfloat16(self, tmp_path):
        array = np.arange(4).astype(ml_dtypes.bfloat16)
        with pytest.raises(CheckpointError, match=r"bfloat16, which \.npz files lose"):
            save(tmp_path / "c.npz", of_arrays({"w": array}))
        np.savez(tmp_path / "d.npz", w=array)
        with pytest.raises(CheckpointError, match=r"lose bfloat16: use \.safetensors"):
            load(tmp_path / "d.npz")
        assert [path.name for path in tmp_path.iterdir()] == ["d.npz"]

    def test_metadata_and_the_order_of_names(self, tmp_path):
        checkpoint = of_arrays({"z": np.zeros(1), "a": np.ones(2)}, {"format": "pt", "step": "12"})
        save(tmp_path / "c.safetensors", checkpoint)
        assert load(tmp_path / "c.safetensors").metadata == checkpoint.metadata
        save(tmp_path / "c.npz", checkpoint)
        assert load(tmp_path / "c.npz").names == ("z", "a")

    def test_lists_of_an_orbax_folder_stay_lists(self, tmp_path):
        tree = [{"w": np.ones((2, 3))}, {"w": np.zeros(3)}]
        save(tmp_path / "c", Checkpoint(tree, ("0/w", "1/w")))
        assert jax.tree.structure(load(tmp_path / "c").tree) == jax.tree.structure(tree)

    def test_nothing_is_unpickled(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return Path.touch, (tmp_path / "exploded",)

        np.savez(tmp_path / "c.npz", w=np.array([Bomb()], object))
        (tmp_path / "c.pt").write_bytes(pickle.dumps({"w": Bomb()}))
        shutil.copy(tmp_path / "c.pt", tmp_path / "d.npz")
        with pytest.raises(CheckpointError, match="Object arrays are pickles"):
            load(tmp_path / "c.npz")
        with pytest.raises(CheckpointError, match=r"safetensors\.torch\.save_file"):
            load(tmp_path / "c.pt")
        with pytest.raises(CheckpointError, match=r"no whole \.npz file"):
            load(tmp_path / "d.npz")
        assert not (tmp_path / "exploded").exists()

    @pytest.mark.parametrize("ending", [".safetensors", ".npz"])
    @pytest.mark.parametrize("keep", [0, 5, 200])
    def test_damaged_files(self, tmp_path, ending, keep):
        path = tmp_path / f"c{ending}"
        save(path, of_arrays(torch_mlp(0)))
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(CheckpointError, match="no whole"):
            load(path)

    def test_what_is_no_checkpoint(self, tmp_path):
        with pytest.raises(CheckpointError, match="does not exist"):
            load(tmp_path / "none.npz")
        (tmp_path / "c.h5").touch()
        with pytest.raises(CheckpointError, match=r"has the ending '\.h5'; known are"):
            load(tmp_path / "c.h5")
        save(tmp_path / "run" / "3" / "state", of_arrays({"w": np.ones(2)}))
        with pytest.raises(CheckpointError, match=r"Did you mean .*state\?"):
            load(tmp_path / "run")
        np.savez(tmp_path / "c.npz", **{"w": np.ones(2), "w/b": np.ones(2)})
        with pytest.raises(CheckpointError, match="both an array and a folder"):
            load(tmp_path / "c.npz")
        np.savez(tmp_path / "c.npz", w=np.array(["text"]))
        with pytest.raises(CheckpointError, match="w has dtype <U4, which is no number"):
            load(tmp_path / "c.npz")

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_a_write_that_fails_leaves_what_was_there(self, tmp_path, monkeypatch, ending):
        path = tmp_path / f"c{ending}"
        save(path, of_arrays({"w": np.zeros(2)}))
        before = digest(path)
        replace = os.replace

        def fail(source, target):
            if ".partial" in str(source):
                raise OSError("no space left")
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", fail)
            with pytest.raises(OSError, match="no space left"):
                save(path, of_arrays({"w": np.ones(2)}), overwrite=True)
        assert digest(path) == before
        assert [found.name for found in tmp_path.iterdir()] == [path.name]
        with pytest.raises(CheckpointError, match="pass --overwrite"):
            save(path, of_arrays({"w": np.ones(2)}))
        save(path, of_arrays({"w": np.ones(2)}), overwrite=True)
        assert flat(load(path))["w"].tolist() == [1, 1]
        assert [found.name for found in tmp_path.iterdir()] == [path.name]


class TestGuess:
    def places(self, arrays):
        spec = guess(nested(Path("test"), arrays)).spec
        return {
            group.name: {("/".join(m.path), m.axis, m.before, m.after) for m in group.members}
            for group in spec.groups
        }

    def test_dense_layers_of_both_layouts(self):
        assert self.places(torch_mlp(0))["fc1"] == {
            ("fc1.weight", 0, 1, 1),
            ("fc1.bias", 0, 1, 1),
            ("fc2.weight", 1, 1, 1),
        }
        assert self.places(flax_mlp(0))["Dense_1"] == {
            ("params/Dense_1/kernel", 1, 1, 1),
            ("params/Dense_1/bias", 0, 1, 1),
            ("params/Dense_2/kernel", 0, 1, 1),
        }

    def test_convolutions_norms_and_flattening(self):
        torch = {
            "features.0.weight": np.zeros((8, 3, 3, 3)),
            "features.1.weight": np.zeros(8),
            "features.1.running_mean": np.zeros(8),
            "features.1.num_batches_tracked": np.array(3),
            "features.3.weight": np.zeros((4, 8, 3, 3)),
            "classifier.0.weight": np.zeros((10, 4 * 9)),
            "classifier.0.bias": np.zeros(10),
        }
        found = self.places(torch)
        assert set(found) == {"features.0", "features.3"}
        assert ("features.1.running_mean", 0, 1, 1) in found["features.0"]
        assert found["features.3"] == {
            ("features.3.weight", 0, 1, 1),
            ("classifier.0.weight", 1, 1, 9),
        }
        flax = {
            "params/Conv_0/kernel": np.zeros((3, 3, 1, 8)),
            "params/BatchNorm_0/scale": np.zeros(8),
            "batch_stats/BatchNorm_0/mean": np.zeros(8),
            "params/Dense_0/kernel": np.zeros((9 * 8, 5)),
        }
        assert self.places(flax) == {
            "Conv_0": {
                ("params/Conv_0/kernel", 3, 1, 1),
                ("params/BatchNorm_0/scale", 0, 1, 1),
                ("batch_stats/BatchNorm_0/mean", 0, 1, 1),
                ("params/Dense_0/kernel", 0, 9, 1),
            }
        }

    def test_it_is_what_tracing_finds(self):
        """The oracle: a traced and proven spec of a model in Flax."""
        from flax import linen as nn

        from pfn_optax.units import unit_spec

        class Net(nn.Module):
            @nn.compact
            def __call__(self, x):
                x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(6, (3, 3))(x)))
                x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
                return nn.Dense(3)(x.reshape(len(x), -1))

        x = jax.ShapeDtypeStruct((1, 5, 5, 2), np.float32)
        variables = jax.eval_shape(Net().init, jax.random.key(0), x)
        traced = unit_spec(Net().apply, variables, x, check=False)
        guessed = guess(jax.tree.map(lambda leaf: np.zeros(leaf.shape), variables)).spec
        assert {frozenset(member.place for member in group.members) for group in traced.groups} == {
            frozenset(member.place for member in group.members) for group in guessed.groups
        }

    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            ({"a.weight": (5, 4), "b.weight": (4, 5)}, "2 orders"),
            ({"fc1.weight": (5, 4), "fc2.weight": (3, 6)}, "no order"),
            ({"fc1.weight": (5, 4)}, "fewer than two layers"),
            ({"fc1.weight": (5, 4), "fc2.kernel": (5, 3)}, "named in two ways"),
            ({"layer1.conv1.weight": (4, 4, 3, 3)}, "may have a skip connection"),
            ({"res1.weight": (4, 4), "fc.weight": (4, 4)}, "no dense layer"),
            ({"fc1.weight": (5, 4), "fc1.weight_g": (5,)}, "no dense layer"),
            ({"fc1.weight": (5, 4), "fc1.bias": (4,), "fc2.weight": (3, 5)}, "not \\(5,\\)"),
            (
                # The second convolution alone has a norm: its number would say the first.
                {
                    "Conv_0.kernel": (3, 3, 1, 8),
                    "Conv_1.kernel": (3, 3, 8, 8),
                    "BatchNorm_0.scale": (8,),
                    "head.kernel": (8, 2),
                },
                "cannot be told to follow",
            ),
            (
                {"l0.kernel": (3, 4), "l1.kernel": (4, 2), "norm.scale": (4,)},
                "norm cannot be told to follow",
            ),
        ],
    )
    def test_what_is_refused(self, shapes, message):
        with pytest.raises(AmbiguousUnitsError, match=message) as caught:
            guess({name: np.zeros(shape) for name, shape in shapes.items()})
        assert "--spec FILE.json" in str(caught.value)


class TestCommand:
    @pytest.mark.parametrize("ending", ENDINGS)
    @pytest.mark.parametrize("make", [torch_mlp, flax_mlp])
    def test_aligned_and_the_same_function(self, tmp_path, capsys, make, ending):
        a, b, c = (tmp_path / f"{name}{ending}" for name in "abc")
        metadata = {"step": "3"} if ending == ".safetensors" else None
        save(a, of_arrays(make(0)))
        save(b, of_arrays(make(1), metadata))
        before = digest(a), digest(b)
        assert main(["align", str(a), str(b), "--out", str(c), "--restarts", "3"]) == 0
        assert (digest(a), digest(b)) == before
        first, second, aligned = map(load, (a, b, c))
        assert aligned.names == second.names
        assert aligned.metadata == metadata
        assert {name: (x.dtype, x.shape) for name, x in flat(aligned).items()} == {
            name: (x.dtype, x.shape) for name, x in flat(second).items()
        }
        for name, array in flat(aligned).items():  # moved, never computed with
            assert sorted(array.ravel()) == sorted(flat(second)[name].ravel())
        x = np.random.default_rng(0).standard_normal((7, SIZES[0])).astype(np.float32)
        expected = predict(second.tree, x)
        np.testing.assert_allclose(predict(aligned.tree, x), expected, rtol=1e-4, atol=1e-4)
        assert distance(first.tree, aligned.tree) < 0.9 * distance(first.tree, second.tree)
        printed = capsys.readouterr().out
        assert "assuming that" in printed
        assert f"objective {distance(first.tree, second.tree):.6g} -> " in printed

    def test_a_written_spec_checked_on_a_model(self, tmp_path, pair, capsys):
        a, b = map(str, pair)
        spec, out = tmp_path / "spec.json", tmp_path / "c.npz"
        axes = {"one": ["fc1.weight:0", "fc1.bias:0", {"leaf": "fc2.weight", "axis": 1}]}
        spec.write_text(json.dumps(axes))
        model = ["--model", "tests.experiments.test_align:predict", "--input-shape", "2", "5"]
        arguments = ["align", a, b, "--spec", str(spec), "--out", str(out)]
        assert main([*arguments, *model]) == 0
        assert "checked on tests.experiments.test_align:predict" in capsys.readouterr().out
        np.testing.assert_array_equal(
            load(out).tree["fc3.weight"], load(pair[1]).tree["fc3.weight"]
        )
        spec.write_text(json.dumps({"one": axes["one"][:2]}))
        assert main([*arguments, *model, "--overwrite"]) == 2
        assert "permuting group 'one'" in capsys.readouterr().err
        assert main([*arguments, "--overwrite"]) == 0  # as the user says
        assert "not checked" in capsys.readouterr().out

    def test_a_traced_model(self, pair, capsys):
        shape = ["--input-shape", "2", "5"]
        model = "tests.experiments.test_align:predict"
        assert main(["align", *map(str, pair), "--model", model, *shape]) == 0
        printed = capsys.readouterr().out
        assert "traced in" in printed
        assert "| all | 14 |" in printed
        beside = pair[1].with_name(f"{pair[1].stem}-aligned.npz")
        assert f"written to {beside}" in printed
        assert load(beside).names == load(pair[1]).names
        assert main(["align", *map(str, pair), "--model", model, *shape]) == 2
        assert "pass --overwrite" in capsys.readouterr().err
        assert main(["align", *map(str, pair), "--model", f"{model}s", *shape, "--overwrite"]) == 2
        assert "cannot be imported" in capsys.readouterr().err

    def test_a_unit_that_is_read_by_itself_stays(self, pair, capsys):
        model = "tests.experiments.test_align:other_predict"
        arguments = ["align", *map(str, pair), "--model", model, "--input-shape", "2", "5"]
        assert main(arguments) == 0
        assert "| all | 13 |" in capsys.readouterr().out

    def test_inputs_and_outputs_are_not_written_over(self, tmp_path, pair, capsys):
        a, b = map(str, pair)
        before = digest(pair[0]), digest(pair[1])
        for out in (a, b):
            assert main(["align", a, b, "--out", out, "--overwrite"]) == 2
            assert "never written over" in capsys.readouterr().err
        (tmp_path / "link.npz").symlink_to(pair[1])
        assert main(["align", a, b, "--out", str(tmp_path / "link.npz"), "--overwrite"]) == 2
        (tmp_path / "c.npz").write_text("mine")
        assert main(["align", a, b, "--out", str(tmp_path / "c.npz")]) == 2
        assert "pass --overwrite" in capsys.readouterr().err
        assert (tmp_path / "c.npz").read_text() == "mine"
        assert main(["align", a, b, "--out", str(tmp_path / "c.pkl")]) == 2
        assert (digest(pair[0]), digest(pair[1])) == before

    def test_other_mistakes(self, tmp_path, pair, capsys):
        a, b = map(str, pair)
        save(tmp_path / "other.npz", of_arrays(torch_mlp(0, (5, 8, 7, 3))))
        for arguments, message in (
            ([str(tmp_path / "other.npz"), b], "only networks of one architecture"),
            ([a, b, "--spec", str(tmp_path / "none.json")], "is no spec"),
            ([a, str(tmp_path / "none.npz")], "does not exist"),
        ):
            assert main(["align", *arguments]) == 2
            assert message in capsys.readouterr().err

    def test_bad_options(self, pair):
        for options, message in (
            ({"model": "math:sqrt"}, "go together"),
            ({"model": "math", "input_shape": (1,)}, "module:function"),
            ({"restarts": 0}, "restarts must be at least 1"),
        ):
            with pytest.raises(UsageError, match=message):
                AlignCheckpoints(*pair, **options)

    @pytest.mark.parametrize(
        "text",
        [
            "[]",
            "{",
            '{"a": 3}',
            '{"a": ["fc9.weight:0"]}',
            '{"a": [{"axis": 0}]}',
            '{"a": [{"leaf": "fc1.weight", "axis": 0, "stop": 2}]}',
        ],
    )
    def test_bad_specs(self, tmp_path, pair, capsys, text):
        (tmp_path / "spec.json").write_text(text)
        assert main(["align", *map(str, pair), "--spec", str(tmp_path / "spec.json")]) == 2
        assert "is no spec" in capsys.readouterr().err
