#!/bin/sh
# As a step of a pipeline: rotates a credential now and waits for the end. rotate.sh CREDENTIAL [LONGEST WAIT]
set -u
keyturn rotate "$1" --wait --timeout "${2:-2h}"
code=$?
case $code in
0) echo "rotated" ;;
1) echo "failed: it says what is true now, and what to do" ;;
2) echo "this command is wrong" ;;
3) echo "refused: nothing was changed" ;;
4) echo "no such credential is applied" ;;
5) echo "it goes on: look with: keyturn status $1" ;;
6) echo "rolled back: consumers are on the key of before" ;;
esac
exit $code
