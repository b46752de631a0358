#!/bin/sh
# On a pull request: all that is wrong with the inventory at once, and what applying it would change. It changes nothing.
set -eu
inventory="${INVENTORY:-inventory.yaml}"
keyturn validate -f "$inventory"
keyturn apply -f "$inventory" --dry-run
