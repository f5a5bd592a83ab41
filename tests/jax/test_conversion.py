"""A run that another optimizer began goes on with ours, and the other way, as if never handed over.

Each run makes some steps with the one, is converted, and makes the rest with the other. The judge
is the other optimizer's own run, from beginning to end.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training import PARAMS, assert_close, gradients, train
from x64 import enable_x64

from nadam_xla.jax import (
    NadamState,
    nadam,
    nadamw,
    scale_by_nadam,
    state_from_keras,
    state_from_optax,
    state_from_torch,
    state_to_keras,
    state_to_optax,
    state_to_torch,
)

GRADS = gradients(20)
BEFORE, AFTER = GRADS[:9], GRADS[9:]
SCHEDULE = optax.linear_schedule(0.03, 0.0, len(GRADS))


def is_matrix(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, tree)


OPTAX: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "nadam": (lambda: nadam(1e-2), lambda: optax.nadam(1e-2)),
    "nadam, schedule": (lambda: nadam(SCHEDULE), lambda: optax.nadam(SCHEDULE)),
    "adam": (lambda: nadam(1e-2, nesterov=False), lambda: optax.adam(1e-2)),
    "nadamw, schedule and mask": (
        lambda: nadamw(SCHEDULE, weight_decay=0.1, mask=is_matrix),
        lambda: optax.nadamw(SCHEDULE, weight_decay=0.1, mask=is_matrix),
    ),
    "scale_by_nadam": (
        lambda: optax.chain(scale_by_nadam(), optax.scale_by_learning_rate(SCHEDULE)),
        lambda: optax.chain(
            optax.scale_by_adam(nesterov=True), optax.scale_by_learning_rate(SCHEDULE)
        ),
    ),
    "wrappers": (
        lambda: optax.MultiSteps(
            optax.chain(
                optax.clip_by_global_norm(1.0),
                optax.masked(optax.inject_hyperparams(nadam)(SCHEDULE), is_matrix),
            ),
            2,
        ).gradient_transformation(),
        lambda: optax.MultiSteps(
            optax.chain(
                optax.clip_by_global_norm(1.0),
                optax.masked(optax.inject_hyperparams(optax.nadam)(SCHEDULE), is_matrix),
            ),
            2,
        ).gradient_transformation(),
    ),
    "partition": (
        lambda: optax.partition(
            {True: nadam(1e-2), False: nadam(SCHEDULE, mu_dtype=jnp.float32)}, is_matrix
        ),
        lambda: optax.partition({True: optax.nadam(1e-2), False: optax.nadam(SCHEDULE)}, is_matrix),
    ),
}
if jax.tree.leaves(optax.add_decayed_weights(SCHEDULE).init(PARAMS)):  # older ones know no schedule
    OPTAX["nadamw, scheduled decay"] = (
        lambda: nadamw(SCHEDULE, weight_decay=SCHEDULE, mask=is_matrix),
        lambda: optax.nadamw(SCHEDULE, weight_decay=SCHEDULE, mask=is_matrix),
    )


class TestOptax:
    @pytest.mark.parametrize("case", OPTAX)
    def test_a_run_goes_on_with_ours(self, case: str) -> None:
        ours, theirs = (make() for make in OPTAX[case])
        params, state = train(theirs, BEFORE)
        converted = state_from_optax(state, ours.init(PARAMS))
        assert jax.tree.structure(converted) == jax.tree.structure(ours.init(PARAMS))
        assert_close(train(ours, AFTER, params, converted)[0], train(theirs, GRADS)[0])

    @pytest.mark.parametrize("case", OPTAX)
    def test_a_run_of_ours_goes_on_with_optax(self, case: str) -> None:
        ours, theirs = (make() for make in OPTAX[case])
        params, state = train(ours, BEFORE)
        like = jax.eval_shape(theirs.init, PARAMS)
        converted = state_to_optax(state, like)
        assert jax.tree.structure(converted) == jax.tree.structure(like)
        assert_close(train(theirs, AFTER, params, converted)[0], train(theirs, GRADS)[0])

    def test_there_and_back_is_the_same_state(self) -> None:
        ours, theirs = nadam(SCHEDULE), optax.nadam(SCHEDULE)
        _, state = train(ours, BEFORE)
        there = state_to_optax(state, theirs.init(PARAMS))
        back = state_from_optax(there, jax.eval_shape(ours.init, PARAMS))
        jax.tree.map(np.testing.assert_array_equal, back, state)
        assert jax.tree.structure(back) == jax.tree.structure(state)

    def test_moments_get_the_dtypes_of_the_state_that_is_asked_for(self) -> None:
        params = jnp.ones(3, jnp.bfloat16)
        ours, theirs = nadam(1e-2), optax.nadam(1e-2)
        converted = state_from_optax(theirs.init(params), ours.init(params))
        assert converted.mu.dtype == converted.nu.dtype == jnp.float32
        back = state_to_optax(converted, theirs.init(params))
        assert back[0].mu.dtype == back[0].nu.dtype == jnp.bfloat16

    def test_it_can_be_compiled(self) -> None:
        ours, theirs = nadam(1e-2), optax.nadam(1e-2)
        _, state = train(theirs, BEFORE)
        like = jax.eval_shape(ours.init, PARAMS)
        assert jax.jit(lambda state: state_from_optax(state, like))(state).count == len(BEFORE)

    def test_what_does_not_belong_together(self) -> None:
        ours, theirs = nadam(1e-2), optax.nadam(1e-2)
        state, like = theirs.init(PARAMS), ours.init(PARAMS)
        with pytest.raises(TypeError, match="a tuple with 0 ScaleByAdamStates stands where"):
            state_from_optax(optax.sgd(1e-2).init(PARAMS), like)
        with pytest.raises(TypeError, match="like is a tuple without a NadamState in it"):
            state_from_optax(state, state)
        masked, chained = optax.masked(theirs, is_matrix), optax.chain(ours)
        with pytest.raises(ValueError, match="like is a tuple, and optax_state is an optax Masked"):
            state_from_optax(masked.init(PARAMS), chained.init(PARAMS))
        with pytest.raises(ValueError, match=r"state.mu has no \['bias'\], and like.mu has one"):
            state_from_optax(theirs.init({k: v for k, v in PARAMS.items() if k != "bias"}), like)
        with pytest.raises(ValueError, match=r"state.mu\['bias'\] has the shape \(9,\)"):
            state_from_optax(theirs.init({**PARAMS, "bias": jnp.ones(9)}), like)
        traced = optax.chain(optax.scale_by_adam(), optax.trace(0.9))
        with pytest.raises(TypeError, match=r"like\[1\]\.trace\S* is float32.*nothing that bel"):
            state_to_optax(like, traced.init(PARAMS))

    def test_a_schedule_of_the_momentum_has_no_counterpart(self) -> None:
        scheduled, theirs = nadam(1e-2, momentum_decay=1.0), optax.nadam(1e-2)
        with pytest.raises(ValueError, match=r"like carries a momentum_product; .*decay=None"):
            state_from_optax(theirs.init(PARAMS), scheduled.init(PARAMS))
        with pytest.raises(ValueError, match="state carries a momentum_product"):
            state_to_optax(scheduled.init(PARAMS), theirs.init(PARAMS))


# The parameters as PyTorch and Keras list them, a transposition included.


def listed(tree: Any) -> list[Any]:
    return [tree["kernel"].T, tree["bias"], tree["deep"]["w"]]


def arranged(arrays: list[Any]) -> Any:
    kernel, bias, w = arrays
    return {"kernel": kernel.T, "bias": bias, "deep": {"w": w}}


START = arranged(listed(PARAMS))
SOME_GRADS = [arranged(listed(g)) for g in GRADS]


TORCH: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "defaults": ({}, lambda: nadam(1e-2, momentum_decay=0.004)),
    "all numbers": (
        {"betas": (0.8, 0.95), "eps": 1e-4, "momentum_decay": 0.1},
        lambda: nadam(1e-2, 0.8, 0.95, 1e-4, momentum_decay=0.1),
    ),
    "weight decay": (
        {"weight_decay": 0.1},
        lambda: nadam(1e-2, l2=0.1, momentum_decay=0.004),
    ),
    "decoupled weight decay": (
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        lambda: nadamw(1e-2, weight_decay=0.1, momentum_decay=0.004),
    ),
}


class TestTorch:
    @pytest.fixture
    def torch(self) -> Any:
        return pytest.importorskip("torch", reason="PyTorch is the judge here")

    def model(self, torch: Any, tree: Any, **options: Any) -> tuple[list[Any], Any]:
        params = [torch.nn.Parameter(torch.tensor(np.asarray(x))) for x in listed(tree)]
        return params, torch.optim.NAdam(params, lr=1e-2, **options)

    def train(self, torch: Any, params: list[Any], optimizer: Any, grads: list[Any]) -> Any:
        for g in grads:
            for p, x in zip(params, listed(g), strict=True):
                p.grad = torch.tensor(np.asarray(x))
            optimizer.step()
        return arranged([p.detach().numpy() for p in params])

    @pytest.mark.parametrize("case", TORCH)
    def test_a_run_goes_on_with_ours(self, torch: Any, case: str) -> None:
        options, make = TORCH[case]
        params, optimizer = self.model(torch, START, **options)
        middle = jax.tree.map(jnp.array, self.train(torch, params, optimizer, SOME_GRADS[:9]))
        state = state_from_torch(optimizer.state_dict(), arranged)
        kept = jax.tree.map(np.array, state)
        expected = self.train(torch, params, optimizer, SOME_GRADS[9:])
        jax.tree.map(np.testing.assert_array_equal, kept, state)  # no memory is shared
        assert_close(train(make(), SOME_GRADS[9:], middle, state)[0], expected)

    @pytest.mark.parametrize("case", TORCH)
    def test_a_run_of_ours_goes_on_with_pytorch(self, torch: Any, case: str) -> None:
        options, make = TORCH[case]
        middle, state = train(make(), SOME_GRADS[:9], START)
        params, optimizer = self.model(torch, middle, **options)
        state_dict = optimizer.state_dict()
        state_dict["state"] = state_to_torch(state, listed, tensor=torch.tensor)
        optimizer.load_state_dict(state_dict)
        result = self.train(torch, params, optimizer, SOME_GRADS[9:])
        judge = self.model(torch, START, **options)
        assert_close(result, self.train(torch, *judge, SOME_GRADS))

    def test_there_and_back_is_the_same_state(self, torch: Any) -> None:
        _, state = train(nadam(1e-2, momentum_decay=0.004), SOME_GRADS[:9], START)
        _, optimizer = self.model(torch, START)
        state_dict = optimizer.state_dict()
        state_dict["state"] = state_to_torch(state, listed, tensor=torch.tensor)
        optimizer.load_state_dict(state_dict)
        back = state_from_torch(optimizer.state_dict(), arranged)
        jax.tree.map(np.testing.assert_array_equal, back, state)

    def test_groups_of_parameters_stand_one_after_the_other(self, torch: Any) -> None:
        sizes = (2, 3, 4)
        params = [torch.nn.Parameter(torch.ones(n)) for n in sizes]
        optimizer = torch.optim.NAdam([{"params": params[1:]}, {"params": params[:1]}])
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        state = state_from_torch(optimizer.state_dict())
        assert [len(x) for x in state.mu] == [3, 4, 2]

    def test_bfloat16_moments_are_widened(self, torch: Any) -> None:
        p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        optimizer = torch.optim.NAdam([p])
        p.grad = torch.ones_like(p)
        optimizer.step()
        state = state_from_torch(optimizer.state_dict())
        assert state.mu[0].dtype == state.nu[0].dtype == jnp.float32
        moment = optimizer.state[p]["exp_avg"].float().numpy()
        np.testing.assert_array_equal(state.mu[0], moment)

    def test_float64_moments_keep_their_digits(self, torch: Any) -> None:
        p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = torch.optim.NAdam([p])
        p.grad = torch.full_like(p, 1 / 3)
        optimizer.step()
        with enable_x64(True):
            state = state_from_torch(optimizer.state_dict())
            assert state.momentum_product.dtype == jnp.float64
            np.testing.assert_array_equal(state.mu[0], optimizer.state[p]["exp_avg"].numpy())
            entry = state_to_torch(state, tensor=torch.tensor)[0]
            assert entry["exp_avg"].dtype == torch.float64

    def test_what_cannot_be_converted(self, torch: Any) -> None:
        p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        optimizer = torch.optim.NAdam([("p", p), ("q", q)])
        p.grad = torch.ones(3)
        optimizer.step()
        with pytest.raises(ValueError, match=r"no state of parameter q: .* never had a gradient"):
            state_from_torch(optimizer.state_dict())
        q.grad = torch.ones(3)
        optimizer.step()
        with pytest.raises(ValueError, match=r"parameter q has the step 1.0, and parameter p 2.0"):
            state_from_torch(optimizer.state_dict())
        adam = torch.optim.Adam([p])
        adam.step()
        with pytest.raises(ValueError, match=r"and no mu_product; it is not that of torch.optim.N"):
            state_from_torch(adam.state_dict())
        with pytest.raises(ValueError, match=r"momentum_product is None: its momentum was const"):
            state_to_torch(nadam(1e-2).init([p.detach().numpy()]), tensor=torch.tensor)
        with pytest.raises(TypeError, match="state is a tuple; it must be a NadamState"):
            state_to_torch(optax.nadam(1e-2).init(jnp.ones(3)), tensor=torch.tensor)


KERAS: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "defaults": ({}, lambda: nadam(1e-2, eps=1e-7, momentum_decay=1.0)),
    "weight decay": (
        {"weight_decay": 0.1, "beta_1": 0.8},
        lambda: nadamw(1e-2, 0.8, eps=1e-7, weight_decay=0.1, momentum_decay=1.0),
    ),
}


class TestKeras:
    @pytest.fixture
    def keras(self) -> Any:
        # The folder tests/keras, too, can be imported by that name; it has no optimizers.
        pytest.importorskip("keras.optimizers", reason="Keras is the judge here")
        return pytest.importorskip("keras")

    def model(self, keras: Any, tree: Any, **options: Any) -> tuple[list[Any], Any]:
        variables = [keras.Variable(np.asarray(x)) for x in listed(tree)]
        optimizer = keras.optimizers.Nadam(**{"learning_rate": 1e-2, **options})
        optimizer.build(variables)
        return variables, optimizer

    def train(self, keras: Any, variables: list[Any], optimizer: Any, grads: list[Any]) -> Any:
        for g in grads:
            tensors = [keras.ops.convert_to_tensor(np.asarray(x)) for x in listed(g)]
            optimizer.apply(tensors, variables)
        return arranged([keras.ops.convert_to_numpy(v) for v in variables])

    def store(self, optimizer: Any) -> dict[str, np.ndarray]:
        store: dict[str, np.ndarray] = {}
        optimizer.save_own_variables(store)
        return store

    @pytest.mark.parametrize("case", KERAS)
    def test_a_run_goes_on_with_ours(self, keras: Any, case: str) -> None:
        options, make = KERAS[case]
        variables, optimizer = self.model(keras, START, **options)
        middle = jax.tree.map(jnp.array, self.train(keras, variables, optimizer, SOME_GRADS[:9]))
        state = state_from_keras(self.store(optimizer), arranged)
        assert isinstance(state, NadamState)
        assert state.count == 9
        expected = self.train(keras, variables, optimizer, SOME_GRADS[9:])
        result, _ = train(make(), SOME_GRADS[9:], middle, state)
        assert_close(result, expected, rtol=5e-5)

    @pytest.mark.parametrize("case", KERAS)
    def test_a_run_of_ours_goes_on_with_keras(self, keras: Any, case: str) -> None:
        options, make = KERAS[case]
        middle, state = train(make(), SOME_GRADS[:9], START)
        variables, optimizer = self.model(keras, middle, **options)
        optimizer.load_own_variables(state_to_keras(state, listed, learning_rate=1e-2))
        assert int(optimizer.iterations) == 9
        result = self.train(keras, variables, optimizer, SOME_GRADS[9:])
        judge = self.model(keras, START, **options)
        assert_close(result, self.train(keras, *judge, SOME_GRADS), rtol=5e-5)

    def test_a_schedule_computes_the_learning_rate(self, keras: Any) -> None:
        schedule = keras.optimizers.schedules.PolynomialDecay(0.03, 20, 0.0)
        variables, optimizer = self.model(keras, START, learning_rate=schedule)
        self.train(keras, variables, optimizer, SOME_GRADS[:9])
        store = self.store(optimizer)
        state = state_from_keras(store, arranged)
        back = state_to_keras(state, listed, learning_rate=None)
        assert back.keys() == store.keys()
        for key, variable in store.items():
            np.testing.assert_array_equal(back[key], variable)

    def test_a_file_of_weights(self, keras: Any, tmp_path: Any) -> None:
        h5py = pytest.importorskip("h5py", reason="Keras writes its files with it")
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
        model.compile(optimizer=keras.optimizers.Nadam(1e-2), loss="mse")
        model.fit(np.ones((8, 4)), np.ones((8, 3)), batch_size=4, verbose=0)
        model.save_weights(tmp_path / "model.weights.h5")
        with h5py.File(tmp_path / "model.weights.h5") as file:
            state = state_from_keras(file["optimizer/vars"])
        assert state.count == 2
        assert [x.shape for x in state.mu] == [(4, 3), (3,)]
        momentum = self.store(model.optimizer)["2"]
        np.testing.assert_array_equal(state.mu[0], momentum)

    def test_whole_numbers_are_not_taken_for_moments(self) -> None:
        codes = {"2": np.zeros((64, 64), "int8"), "3": np.zeros((64, 64), "uint8")}
        store = {"0": np.asarray(1), "1": np.zeros(()), **codes, "4": np.zeros(())}
        with pytest.raises(
            ValueError, match=r"variable 2 is int8\[64,64\]; it must be floating: mom"
        ):
            state_from_keras(store)

    def test_what_cannot_be_converted(self, keras: Any) -> None:
        _, optimizer = self.model(keras, START, use_ema=True)
        with pytest.raises(ValueError, match=r"its velocity .* not the variables of a Nadam alone"):
            state_from_keras(self.store(optimizer))
        _, optimizer = self.model(keras, START)
        store = self.store(optimizer)
        with pytest.raises(ValueError, match=r"variable 0 is float32\[5,7\]; it must be the numb"):
            state_from_keras({str(i): v for i, v in enumerate(list(store.values())[2:])})
        with pytest.raises(ValueError, match=r"the last variable is float32\[2,3,4\]; it must be"):
            state_from_keras({str(i): v for i, v in enumerate(list(store.values())[:-1])})
        with pytest.raises(
            ValueError, match=r"store has the keys \['vars'\]; .*save_own_variables"
        ):
            state_from_keras({"vars": store})
        with pytest.raises(ValueError, match=r"momentum_product is None: its momentum was const"):
            state_to_keras(nadam(1e-2).init([jnp.ones(3)]), learning_rate=1e-2)
