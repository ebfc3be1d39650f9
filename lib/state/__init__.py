"""What lies in the store, one file a kind: its key, its codec, its repository.

What damage does. A damaged object is one that is not what was written: rubbish, cut off, a wrong type in a field. It
stops nobody else. `status` names it (`damage.damaged`); a copy in `dead/` keeps it known after it was made again.

| Kind | File | A damaged one |
| `cursors/` | checkpoints.py | moves to `dead/`; made again from the newest batch or receipt beside it |
| `batches/` | batches.py | moves to `dead/`; a gap names what was lost, Sophos is asked for it, the stream goes on |
| `archive/` | batches.py | stays; `replay` names it |
| `ledger/` | ledger.py, receipts.py | stays, `audit` names it; its key tells all that the next receipt needs |
| `leases/` | leases.py | copied to `dead/`; made again from the ledger; a batch delivered in part is sent again |
| `gaps/` | gaps.py | stays; listings go on without it |
| `acknowledged/` | acknowledgements.py | stays; what it settled needs attention again |
| `dead/` | dead_letters.py | stays; `replay` refuses it |
| `integrations/` | accounts.py | copied to `dead/`; Sophos is asked again; an operator's pause is lost |
| `devices/` | inventories.py | copied to `dead/`; every device's record is sent again |
| `schedules/` | schedules.py | copied to `dead/`; every stream counts as never asked |
| `budgets/` | rate_limits.py | copied to `dead/`; the other instances' calls are not known until they tell |
| `reconciliations/`, `backfills/` | reconciliations.py | copied to `dead/`; the next one begins anew |

An object of a newer layout is no damage, and nothing overwrites it: whatever needs it fails with LayoutError, for its
own stream or integration alone.
"""
