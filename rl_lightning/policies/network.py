"""The network that a policy acts by, apart from whatever else its learner has; and the same as data."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from rl_lightning.errors import UsageError
from rl_lightning.networks import (
    CategoricalPolicy,
    DeterministicPolicy,
    DiscreteQNetwork,
    PolicyAndValue,
    SquashedGaussianPolicy,
)
from rl_lightning.networks.distributions import Categorical, Gaussian
from rl_lightning.networks.encoders import UsersEncoder, make_encoder
from rl_lightning.networks.normalization import ObservationNormalizer
from rl_lightning.networks.policy_and_value import CategoricalHead, GaussianHead
from rl_lightning.policies.as_data import body_from_data, body_to_data
from rl_lightning.types import Obs, Space, State

OFF_POLICY: dict[str, Any] = {  # kinds of policies as data names them
    "squashed_gaussian": SquashedGaussianPolicy,
    "deterministic": DeterministicPolicy,
    "categorical": CategoricalPolicy,
    "q": DiscreteQNetwork,
}
ON_POLICY: dict[str, Any] = {"gaussian_head": GaussianHead, "categorical_head": CategoricalHead}


class PolicyNetwork(nn.Module):
    """What a policy acts by: running statistics of observations where it has them, then its network.

    Args:
        policy: one of `rl_lightning.networks.off_policy` that gives actions or their values, or an encoder and a head
            of `PolicyAndValue`.
        normalizer: of its observations.
        ent_coef: the temperature α by which values of actions become a policy; None where the greedy one is meant.
    """

    def __init__(
        self, policy: nn.Module, normalizer: ObservationNormalizer | None = None, ent_coef: float | None = None
    ) -> None:
        super().__init__()
        self.policy, self.normalizer, self.ent_coef = policy, normalizer, ent_coef

    @classmethod
    def of(cls, network: nn.Module, normalizer: ObservationNormalizer | None = None) -> "PolicyNetwork":
        """That of a learner's network, whose weights it shares, and of its normalizer; some networks hold their own."""
        if isinstance(network, PolicyAndValue):
            return cls(network.policy, network.normalizer)
        return cls(network, normalizer)

    @property
    def is_stochastic(self) -> bool:
        """Whether it has anything to sample."""
        greedy = isinstance(self.policy, DiscreteQNetwork) and self.ent_coef is None
        return not greedy and not isinstance(self.policy, DeterministicPolicy)

    def forward(self, obs: Obs, deterministic: bool = True, generator: Generator | None = None) -> Tensor:
        """The most likely actions, or samples: observations [B, *obs_shape] to actions as the learner gives them."""
        obs = obs if self.normalizer is None else self.normalizer(obs)
        match self.policy:
            case SquashedGaussianPolicy():
                gaussian = Gaussian(*self.policy(obs))
                return (gaussian.mode() if deterministic else gaussian.sample(generator)).tanh()
            case DeterministicPolicy():
                action: Tensor = self.policy(obs)
                return action
            case DiscreteQNetwork():
                q: Tensor = self.policy(obs)
                return q.argmax(-1) if deterministic else Categorical(q / (self.ent_coef or 1.0)).sample(generator)
            case CategoricalPolicy():
                pi = Categorical(self.policy(obs))
            case _:
                pi = self.policy(obs)
        return pi.mode() if deterministic else pi.sample(generator)

    def to_data(self) -> State:
        """What `from_data` makes the same architecture of.

        Raises:
            UsageError: a body that is not made of layers known by name, or a policy of another kind.
        """
        clip = None if self.normalizer is None else self.normalizer.clip
        data: State = {"normalizer_clip": clip, "ent_coef": self.ent_coef}
        head = self.policy[1] if isinstance(self.policy, nn.Sequential) else self.policy
        if own := next((module for module in self.policy.modules() if isinstance(module, UsersEncoder)), None):
            cls = type(own.encoder)
            raise UsageError(f"{cls.__module__}.{cls.__qualname__} is no encoder that is known by name")
        for kind, network in (OFF_POLICY | ON_POLICY).items():
            if type(head) is network:
                if isinstance(head, GaussianHead):
                    data["state_dependent_std"] = head.log_std is None
                bodies = [head.get_submodule("body")]
                if isinstance(head, DiscreteQNetwork) and head.value is not None:
                    bodies.append(head.value)
                return {"kind": kind, "bodies": [body_to_data(body) for body in bodies], **data}
        raise UsageError(f"{type(head).__module__}.{type(head).__qualname__} is no policy that is known by name")

    @classmethod
    def from_data(cls, data: Any, observation_space: Space, action_space: Space) -> "PolicyNetwork":
        """The architecture of `to_data`, on the meta device: without weights, and without memory for them.

        Args:
            data: a description.
            observation_space: of the environment.
            action_space: of the learner.

        Raises:
            UsageError: what is no such description, or does not fit the spaces.
        """
        with torch.device("meta"):
            bodies = iter([body_from_data(body) for body in data["bodies"]])

            def next_body(in_features: int, out_features: int) -> nn.Module:
                return next(bodies)

            kind, clip = data["kind"], data["normalizer_clip"]
            policy: nn.Module
            if kind in ON_POLICY:
                encoder = make_encoder(observation_space)
                settings = (data["state_dependent_std"], 0.0) if kind == "gaussian_head" else ()
                head = ON_POLICY[kind](encoder.out_features, action_space, next_body, *settings)
                policy = nn.Sequential(encoder, head)
            else:
                dueling = (len(data["bodies"]) == 2,) if kind == "q" else ()
                policy = OFF_POLICY[kind](observation_space, action_space, next_body, *dueling)
            normalizer = None if clip is None else ObservationNormalizer(observation_space, float(clip))
            ent_coef = data["ent_coef"]
        return cls(policy.eval(), normalizer, None if ent_coef is None else float(ent_coef)).eval()
