"""State machines that count their steps, so that a session can say at its end how many it ran."""

from collections import Counter

from hypothesis.stateful import RuleBasedStateMachine, invariant

steps_run: Counter[str] = Counter()  # by the machine's name


class CountedMachine(RuleBasedStateMachine):
    """Counts each rule that it ran."""

    def __init__(self) -> None:
        super().__init__()
        self._has_begun = False

    @invariant()
    def count(self) -> None:
        """Invariants are looked at once before the first rule, and then after each."""
        if self._has_begun:
            steps_run[type(self).__name__] += 1
        self._has_begun = True
