# shellcheck shell=bash
# What the scripts tell the person in front of them.

say() { printf '%s\n' "$*"; }

# Says why the script cannot go on, and ends it.
fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}
