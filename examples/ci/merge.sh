#!/bin/sh
# On the main branch: makes Temporal's Schedules what the inventory says. It may be run again, also after it was cut off. SIGN names
# the SSH key of whoever may sign inventories, or agent.
set -eu
inventory="${INVENTORY:-inventory.yaml}"
keyturn apply -f "$inventory" --prune --yes ${SIGN:+--sign "$SIGN"}
