"""TranscriberContract: what every engine has to keep, as tests that its author runs."""

from ._answers import AnswersContract
from ._resources import ResourcesContract
from ._running import RunningContract


class TranscriberContract(AnswersContract, RunningContract, ResourcesContract):
    """The contract between this library and an engine, as a class of pytest tests.

    Subclass it in your own tests, under a name that begins with "Test", and say how your engine is made:

        class TestMyEngine(TranscriberContract):
            def make_engine(self):
                return MyEngine()

    Each check makes its own engines, and says on failure what to do. Those about time run on asyncio and on trio.
    A check that does not concern an engine, or that needs `speech`, is skipped and says so.

    Attributes:
        call_seconds: the longest that one call of your engine may take, 60 s unless you set it. Whatever does not
            return until then fails, and is given up.

    Override `speech` to have text and times checked as well.
    """
