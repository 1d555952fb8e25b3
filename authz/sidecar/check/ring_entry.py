"""What stands in a ring for control: the first byte of an entry says which of three things it is."""

from __future__ import annotations

from typing import Final

#: a record of a decision
RECORD: Final = b"R"
#: a level and a text for the process's log
LOG_LINE: Final = b"L"
#: the id of a decision and the reason for which its call, which is held or was a moment ago, is refused from now on
LOST_GRANT: Final = b"G"
