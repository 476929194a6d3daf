"""Which batches' rows count for a reader, by what its snapshots say of them."""

from unittest.mock import Mock
from uuid import uuid4

import pytest

from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.ports import ScanSegment
from tierkeeper.kernel.tables import TableName
from tierkeeper.query.runner import _Snapshots, counts
from tierkeeper.query.trust import Arrival


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("rested", [False, True])
@pytest.mark.parametrize("standby", [False, True])
def test_a_batch_that_its_source_knows_nothing_of_counts_by_its_own_servers_clock_alone(
    moved: bool, rested: bool, standby: bool
) -> None:
    """A standby's clock may be ahead of its primary's: then the row is in the source's snapshot as well, and counted twice."""
    batch, taken = uuid4(), _Snapshots(Mock())
    arrival = Arrival(batch, "public", "t", "7", None, rested, standby)
    segment = ScanSegment("s", batch, "done", 1, None, None, settled_seconds=90.0 if rested else 1.0, by_another_clock=standby)
    known = {batch} if moved else set()
    if rested and standby and not moved:
        with pytest.raises(NotNow, match=r"tiers.main: it is a standby .* give the URL of main's primary"):
            taken.leave_out("main", [arrival], known)
        with pytest.raises(NotNow, match=r"tiers.archive: it is a standby"):
            counts(segment, known, 60)
        return
    taken.leave_out("main", [arrival], known)
    assert taken.excluded == ({} if moved or rested else {("main", TableName("public", "t")): ["7"]})
    assert counts(segment, known, 60) == (moved or rested)
