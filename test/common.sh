# Shell functions of the scripts that run servers: a private directory with a PostgreSQL of its own, nats-server and cluster,
# all gone when the script ends, however it ends. To be sourced.
#
#	private_dir          makes $work, which only the tester and root can enter, and sets the clean-up
#	hold_checkout, release_checkout  between them no other script builds or leaves anything in the checkout
#	build                make all, quietly; warnings are shown. Holds the checkout
#	install_privately    the extension, into a copy of PostgreSQL that is in the PATH from then on; $private_pg_config is its
#	build_and_install    all of that
#	as_tester CMD...     runs CMD without root's rights: initdb and the server refuse root
#	copy_checkout        the checkout as copy_sources does it, in $work/tree, the tester's own
#	keep FROM... TO      copies what a run has left into the directory TO of the checkout, in place of what an earlier one has
#	export_newer_server  $NATS_SERVER_NEW: a nats-server of version 2.12 or later, where the tester can run it
#	show_tap_log NAME    what the TAP program of that name has come to, which died or failed: the end of its own log
#	count_tap LOG STATUS of a TAP program: $passed and $failed, which is 1 at least unless the status is 0
#	in_group CMD...      runs CMD so that the clean-up also ends everything below it
#	start_nats           a nats-server with JetStream; exports NATS_URL
#	start_postgres [LINE...]  a cluster, UTF8 in the C locale, that publishes there, with these lines in its
#	                     configuration; exports PGHOST, PGPORT, PGUSER. $POSTGRES_COMMAND is run instead
#	                     of the server, if it is set

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

choose_server
nats_server=${NATS_SERVER:-$(command -v nats-server || echo nats-server)}
export NATS_SERVER=$nats_server

as_tester() { become_tester env ${tester:+HOME="$work"} TMPDIR="$work/tmp" "$@"; }

private_dir()
{
	work=$(mktemp -d "$TMPDIR/nats_publish.XXXXXX")
	group=
	holding=
	trap clean_up EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	mkdir "$work/tmp"
	[ -z "$tester" ] || chown -R "$tester" "$work"
	cd "$work"
}

# In a process group of its own, and waited for with a builtin: a trap runs at once then, and not when
# the command has ended.
in_group()
{
	local status=0
	set -m
	"$@" </dev/null 9<&- &
	group=$!
	set +m
	wait "$group" || status=$?
	group=
	return "$status"
}

is_ours() { grep -qaF "$work" "/proc/$1/cmdline" 2>/dev/null; }

clean_up()
{
	local status=$?
	trap - EXIT
	set +e
	trap '' INT TERM HUP
	if [ -n "$group" ] && kill -TERM -- "-$group" 2>/dev/null; then
		# it may have servers to stop
		for _ in {1..100}; do kill -0 -- "-$group" 2>/dev/null || break; sleep 0.05; done
	fi
	# Servers have left our process groups, and those of a killed test have nobody else to end them.
	# What has a pid file in our own directory, and that directory on its command line, is ours.
	local file pid
	find "$work" -name '*.pid' -print0 2>/dev/null | while read -r -d '' file; do
		pid=$(head -n 1 "$file" 2>/dev/null) || continue
		is_ours "$pid" || continue
		kill -QUIT "$pid" || true		# PostgreSQL: immediate shutdown, children included
		kill -CONT "$pid" || true		# a stalled one
		for _ in {1..120}; do
			is_ours "$pid" || break
			sleep 0.05
		done
		! is_ours "$pid" || kill -KILL "$pid" || true
	done 2>/dev/null
	[ -z "$holding" ] || release_checkout
	cd /
	rm -rf "$work"
	exit "$status"
}

hold_checkout()
{
	exec 9<"$top/Makefile"
	holding=yes
	# where files can't be locked, do without
	flock -n -E 99 9 2>/dev/null || [ $? -ne 99 ] || { echo "waiting for another run, which builds in this checkout"; flock 9; }
}

release_checkout()
{
	give_back
	holding=
	exec 9<&-
}

build()
{
	local status=0
	hold_checkout
	in_group make -s -j"$(nproc)" -C "$top" all >"$work/make.log" 2>&1 || status=$?
	cat "$work/make.log"
	[ "$status" -eq 0 ] || die "make all failed"
}

install_privately()
{
	become_tester test -r "$("$PG_CONFIG" --sharedir)/postgres.bki" || die "$tester can't read the PostgreSQL of $PG_CONFIG"
	private_pg_config=$("$top/test/copy_server" "$work/server")
	in_group make -s -C "$top" install DESTDIR="$work/server" >"$work/install.log" 2>&1 ||
		{ cat "$work/install.log" >&2; die "make install failed"; }
	export PATH=${private_pg_config%/*}:$PATH
}

build_and_install()
{
	build
	install_privately
	release_checkout
}

copy_checkout()
{
	copy_sources "$work/tree"
	[ -z "$tester" ] || chown -R "$tester" "$work/tree"
}

keep()
{
	local to=$top/${!#}
	hold_checkout
	rm -rf "$to"
	mkdir -p "$to"
	cp -R "${@:1:$#-1}" "$to" || true
	release_checkout
}

export_newer_server()
{
	local binary
	binary=$("$top/test/newer_server") || die "no nats-server of version 2.12 or later"
	install -m 755 "$binary" "$work/nats-server-new"
	export NATS_SERVER_NEW=$work/nats-server-new
}

show_tap_log()
{
	grep -vE '^\[[^]]*\]\([^)]*\) *ok ' "$work/tree/tmp_check/log/regress_log_$1" | tail -n 20
}

count_tap()
{
	passed=$(grep -c '^ok [0-9]' "$1" || true)
	failed=$(grep -c '^not ok [0-9]' "$1" || true)
	[ "$2" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
}

# wait_for SECONDS WHAT CMD...
wait_for()
{
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || die "waited in vain for $what"
		sleep 0.05
	done
}

start_nats()
{
	local ports pid
	as_tester mkdir "$work/nats"
	# The server chooses a free port itself and writes it down: nothing can take it in between.
	as_tester "$nats_server" -a 127.0.0.1 -p -1 --ports_file_dir "$work/nats" -P "$work/nats/nats.pid" \
		-n nats_publish_test -js -sd "$work/nats" -l "$work/nats.log" </dev/null >"$work/nats.out" 2>&1 &
	pid=$!
	disown
	nats_started()
	{
		ports=$(find "$work/nats" -maxdepth 1 -name '*.ports' -size +0)
		[ -n "$ports" ] || kill -0 "$pid" 2>/dev/null || { cat "$work"/nats.{out,log} >&2 2>/dev/null || true; die "$nats_server ended"; }
		[ -n "$ports" ]
	}
	wait_for 60 "nats-server" nats_started
	NATS_URL=$(grep -o 'nats://127\.0\.0\.1:[0-9]*' "$ports" | head -n 1)
	[ -n "$NATS_URL" ] || die "no port in $ports"
	export NATS_URL
}

start_postgres()
{
	# A superuser of a fixed name, and a socket that only this directory leads to: no port to be in use.
	export PGHOST=$work PGPORT=5432 PGUSER=postgres
	as_tester initdb -D "$work/pgdata" -U "$PGUSER" --auth=trust --encoding=UTF8 --locale=C --no-sync \
		>"$work/initdb.log" 2>&1 || { cat "$work/initdb.log" >&2; die "initdb failed"; }
	as_tester tee -a "$work/pgdata/postgresql.conf" <"$top/test/postgresql.conf" >/dev/null
	as_tester tee -a "$work/pgdata/postgresql.conf" >/dev/null <<-END
		listen_addresses = ''
		unix_socket_directories = '$work'
		nats_publish.url = '$NATS_URL'
		$(printf '%s\n' "$@")
	END
	as_tester pg_ctl ${POSTGRES_COMMAND:+-p "$POSTGRES_COMMAND"} -D "$work/pgdata" -l "$work/postgresql.log" -w -t 300 start >"$work/pg_ctl.log" 2>&1 ||
		{ cat "$work/pg_ctl.log" "$work/postgresql.log" >&2; die "PostgreSQL did not start"; }
}
