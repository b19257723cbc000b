import pytest

from rl_lightning.cli.main import RLCLI


class BuiltError(Exception):
    pass


@pytest.fixture(scope="session")
def parser():
    """The program's parser, which has read nothing yet."""

    class ParserOnly(RLCLI):
        def parse_arguments(self, parser, args):
            raise BuiltError(parser)

    with pytest.raises(BuiltError) as built:
        ParserOnly([])
    return built.value.args[0]
