# What every script here begins with, so that nothing in the user's environment leads one astray: $top is the
# checkout, $tester the account to test as (empty: whoever runs the script), $TMPDIR a directory that serves. To be sourced.
#
#	die MESSAGE          ends the script
#	temporary_dir WHAT   makes a directory and prints its path
#	copy_sources DIR     copies the checkout there, without what was built in it and what tests have left
#	give_back            after something was left in the checkout
#	choose_server        sets PG_CONFIG

set -euo pipefail

die() { echo "$0: $*" >&2; exit 1; }

# They make `cd` go elsewhere and print where to, scripts run something before they begin, tools mean something else.
unset CDPATH BASH_ENV ENV TAR_OPTIONS GREP_OPTIONS POSIXLY_CORRECT
# not every user's has them, nor root's after `su`
export PATH=$PATH:/usr/sbin:/sbin
# a jobserver does not reach the makes that scripts run
[ -z "${MAKEFLAGS:-}" ] || MAKEFLAGS=$(sed -E 's/(^| )(-j[0-9]*|--jobserver-[a-z]+=[^ ]*)//g' <<<"$MAKEFLAGS")
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The user's PGHOST, PGSERVICE and so on name other servers, which are none of our business.
for variable in ${!PG@}; do
	[[ $variable == PG_* ]] || unset "$variable"
done
# PostgreSQL's tests unset LC_ALL, and initdb falls back to LANG: without it, to SQL_ASCII.
export LANG=C.UTF-8 LC_ALL=C.UTF-8
for variable in ${!LC_@} LANGUAGE; do
	[ "$variable" = LC_ALL ] || unset "$variable"
done
# What root makes, the tester reads.
umask 022

# initdb and the server refuse root, which tests as the account of Debian's package.
tester=
if [ "$(id -u)" -eq 0 ]; then
	tester=postgres
	id "$tester" >/dev/null 2>&1 || tester=nobody
fi

# setpriv becomes the command, where su and runuser would stay between us and its signals.
become_tester() { [ -z "$tester" ] || set -- setpriv --reuid="$tester" --regid="$(id -g "$tester")" --clear-groups "$@"; "$@"; }

# serves DIR: can it hold the private servers?  Their configuration and command lines name it, its path and some 50
# characters more are a socket's address, of which 107 count, and their programs are run there.
serves()
{
	local probe status=0
	[[ $1 =~ ^/[A-Za-z0-9_./+-]{1,50}$ ]] && probe=$(mktemp -d "$1/nats_publish.XXXXXX" 2>/dev/null) || return 1
	printf '#!/bin/sh\n' >"$probe/program"
	chmod 755 "$probe" "$probe/program"
	become_tester "$probe/program" 2>/dev/null || status=1
	rm -rf "$probe"
	return "$status"
}

become_tester true || die "root can't become $tester here, and PostgreSQL does not run as root"
# choose_tmpdir DIR...: the first one that serves, as processes will name it
choose_tmpdir()
{
	local directory
	for directory; do
		TMPDIR=$(cd "$directory" 2>/dev/null && pwd -P) && serves "$TMPDIR" || continue
		export TMPDIR
		[ "$directory" = "$1" ] ||
			echo "$0: using $TMPDIR, as $1 does not serve (can ${tester:-you} write and run programs there? is its path plain and short?)" >&2
		return
	done
	die "no directory for temporary files: set TMPDIR to one where ${tester:-you} can write and run programs, with a plain and short path"
}
choose_tmpdir "${TMPDIR:-/tmp}" /tmp /var/tmp /dev/shm

temporary_dir() { mktemp -d "$TMPDIR/nats_publish_$1.XXXXXX"; }

# Who owns the checkout owns what root has made there.
give_back()
{
	[ -z "$tester" ] || [ "$(stat -c %u "$top")" -eq 0 ] ||
		find "$top" -path "$top/.git" -prune -o -user root -exec chown -h --reference="$top" {} + || true
}

# Files only: a directory changes while something is built in it, and tar would call that a failure.
copy_sources()
{
	mkdir -p "$1"
	(cd "$top" && find . \( -path ./.git -o -path ./results -o -path ./tmp_check -o -path ./coverage \) -prune -o \
		! -type d ! -path ./.built_for ! -name '*.o' ! -name '*.so' ! -path './test/unit/*_test' ! -path './test/fuzz/*_fuzz' -print0) |
		tar -C "$top" --null --files-from=- -cf - | tar -C "$1" -xf -
}

# ---- Which PostgreSQL

# server_major PG_CONFIG: empty if there is none
server_major() { { "$1" --version 2>/dev/null || true; } | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p'; }
has_server()   { [ -x "$("$1" --bindir 2>/dev/null)/initdb" ]; }
has_headers()  { [ -f "$("$1" --includedir-server 2>/dev/null)/postgres.h" ] && [ -f "$("$1" --pgxs 2>/dev/null)" ]; }

# Makes PG_CONFIG a path: what the user has set, else that of the PATH if its server is there with its headers, else that of the
# newest server which is, else that of the newest one without headers. (Debian's own pg_config is that of the newest client.)
choose_server()
{
	local candidate complete= incomplete=
	if [ -n "${PG_CONFIG:-}" ]; then
		PG_CONFIG=$(realpath -s "$(command -v "$PG_CONFIG" || echo "$PG_CONFIG")")
		export PG_CONFIG
		return
	fi
	for candidate in pg_config $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -rV); do
		[ "$(server_major "$candidate")" -ge 15 ] 2>/dev/null && has_server "$candidate" || continue
		if has_headers "$candidate"; then complete=${complete:-$candidate}; else incomplete=${incomplete:-$candidate}; fi
	done
	PG_CONFIG=${complete:-${incomplete:-pg_config}}
	PG_CONFIG=$(command -v "$PG_CONFIG" || echo pg_config)
	export PG_CONFIG
}
