"""All rows, in the order of the report: those of rows.py, and those that need other servers or other programs."""

import rows
from rows_connected import CONNECTED_ROW
from rows_others import CDC, CLIENTS, OUTBOXES
from rows_servers import R3, SYNC_ALWAYS, TLS

ROWS = rows.ROWS + (CONNECTED_ROW, R3, TLS, SYNC_ALWAYS, CLIENTS, OUTBOXES, CDC)
