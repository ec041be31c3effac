#!/usr/bin/env bash
# What the tests need from the operating system: PostgreSQL's server, Chromium, a font and a C++ compiler. Installs what
# is missing.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

has_postgres() { have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
has_chromium() { have chromium || have chromium-browser || have google-chrome; }
has_font() { compgen -G '/usr/share/fonts/truetype/dejavu/*.ttf' >/dev/null; }
has_compiler() { have "${CXX:-g++}" || have clang++; }

missing=()
has_postgres || missing+=(postgresql)
has_chromium || missing+=(chromium)
has_font || missing+=(fonts-dejavu-core)
has_compiler || missing+=(g++)
[ ${#missing[@]} = 0 ] && exit 0

say "installing from the distribution, for the tests only: ${missing[*]}"
apt_install "${missing[@]}" || {
  say "could not install them here. The tests that need them will fail or say so; as root run:"
  say "  apt-get install --no-install-recommends ${missing[*]}"
}
