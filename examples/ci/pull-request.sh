#!/bin/sh
# On a pull request: all that is wrong with the inventory at once, and what merge.sh would change, and remove. It changes nothing,
# and needs no key.
set -eu
inventory="${INVENTORY:-inventory.yaml}"
keyturn validate -f "$inventory"
keyturn apply -f "$inventory" --prune --dry-run
