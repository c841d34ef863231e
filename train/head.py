"""The value head of the policy that the next search uses.

    python -m train.head --config configs/tiny.yaml --iteration 1

Only with `prm.weights: policy`. RL changes the states that the head of step 4 was fitted on; so when RL has ended the
head is fitted anew, as in `train/prm.py`, on the policy as it is now. The checkpoint `head-NNN` goes with `policy-NNN`
and holds the head alone: its metadata names the weights whose states it reads.
"""

from __future__ import annotations

from o1coder_jax.errors import UserError
from train import prm
from train.session import Session, StageName, policy_name, policy_stage


def run(session: Session, iteration: int) -> None:
    """Fits a head on the policy of this iteration; the result is the checkpoint `head-NNN`."""
    if session.config.prm.weights != "policy":
        raise UserError("prm.weights is own: the reward model of train.prm has its own weights; set it to policy")
    session.require(*policy_stage(iteration))
    with session.run.stage_scope(StageName(iteration)("head")) as stage:
        prm.train(session, stage, iteration, policy=policy_name(iteration), name="head")


if __name__ == "__main__":
    from train.command import stage_command

    stage_command(run, "head", __doc__)
