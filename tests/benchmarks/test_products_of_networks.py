from benchmarks.products import learners, linear, size_of
from rl_lightning.fast.products import Product, products_of


def test_the_products_are_those_of_the_networks_and_minibatches_of_the_configs():
    sizes = {}
    for name, (model, batch) in learners().items():
        counts = products_of(model.gradients, batch, model.buffers())
        sizes[name] = {size_of(product) for product in counts}
    assert (256, 256, 256) in sizes["SAC, HalfCheetah"]
    assert (64, 256, 256) in sizes["DQN, CartPole"]
    assert (64, 64, 64) in sizes["PPO, HalfCheetah"]


def test_onednns_linear_layer_is_compared_with_the_exact_product():
    product = Product("addmm", (((4,), (1,)), ((2, 3), (3, 1)), ((3, 4), (1, 3))))
    measured = linear(product, rounds=2)
    assert 0 < measured.error < 1e-6
    assert measured.seconds > 0
