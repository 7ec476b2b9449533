# Shell functions of the scripts that need a fresh Debian, or another release of it: chroots that are made with
# debootstrap (test/setup) from the mirror that apt uses here. To be sourced; needs root.
#
#	fresh_chroot PLATFORM DIR   a minimal system in DIR, with /proc and /dev; what it downloads is kept for the next one. The
#	                            platform is a release, or RELEASE+VERSION: with that PostgreSQL of the suite experimental
#	in_chroot DIR CMD...        runs CMD there, in /
#	remove_chroot DIR           ends what runs there and removes it

chroot_cache=${NATS_PUBLISH_CACHE:-/var/cache/nats_publish}

source "$top/test/unpack.sh"

# chroot_sources DIR SUITE...: apt takes packages of these suites, too.
chroot_sources()
{
	local suite
	for suite in "${@:2}"; do
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $suite main" \
			>"$1/etc/apt/sources.list.d/$suite.list"
	done
}

# The tar of a release; made once, though several may ask for it at a time.
chroot_base()
{
	mkdir -p "$chroot_cache"
	(flock 9 && { [ -s "$chroot_cache/$1.tar" ] || make_chroot_base "$1"; }) 9>"$chroot_cache/$1.lock"
}

# debootstrap knows new releases as "sid" before it knows their names.
make_chroot_base()
{
	local release=$1 dir=$chroot_cache/$1 script=/usr/share/debootstrap/scripts/$1
	[ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
	rm -rf "$dir"
	debootstrap --variant=minbase "$release" "$dir" "$(debian_mirror)" "$script" >"$dir.log" 2>&1 ||
		{ tail -n 20 "$dir.log" >&2; return 1; }
	# the mirror may be one of a day that is past
	echo 'Acquire::Check-Valid-Until "false";' >"$dir/etc/apt/apt.conf.d/90nats_publish"
	printf '#!/bin/sh\nexit 101\n' >"$dir/usr/sbin/policy-rc.d"
	chmod 755 "$dir/usr/sbin/policy-rc.d"
	tar -C "$dir" -cf "$dir.tar.new" .
	mv "$dir.tar.new" "$dir.tar"
	rm -rf "$dir"
}

# copy_packages FROM TO: as links, where these are of one file system. Each system has a directory of its own, as apt locks it.
copy_packages()
{
	mkdir -p "$1" "$2"
	find "$1" -maxdepth 1 -name '*.deb' -print0 | xargs -0 -r sh -c 'cp -nl -t "$0" "$@" 2>/dev/null || cp -n -t "$0" "$@" || true' "$2"
}

fresh_chroot()
{
	local release=${1%+*}
	# what is unpacked there would go into this machine's own /dev
	! mountpoint -q "$2/dev" || { echo "$2 is in use: remove_chroot $2" >&2; return 1; }
	chroot_base "$release" || return 1
	mkdir -p "$2"
	tar -C "$2" -xf "$chroot_cache/$release.tar"
	# it does not outlive a power failure
	echo force-unsafe-io >"$2/etc/dpkg/dpkg.cfg.d/unsafe-io"
	# by which it is known when its packages are kept
	echo "$1" >"$2/etc/debian_chroot"
	copy_packages "$chroot_cache/$1.archives" "$2/var/cache/apt/archives"
	mount -t proc proc "$2/proc"
	mount --bind /dev "$2/dev"
	[ "$1" = "$release" ] || chroot_sources "$2" experimental
	in_chroot "$2" apt-get -q update >/dev/null
	[ "$1" = "$release" ] || install_experimental "$2" "${1##*+}"
}

# install_experimental DIR VERSION: PostgreSQL and its libraries, and never anything else, from experimental.
install_experimental()
{
	cat >"$1/etc/apt/preferences.d/experimental" <<-END
		Package: *
		Pin: release a=experimental
		Pin-Priority: -1

		Package: postgresql*-$2 libpq*
		Pin: release a=experimental
		Pin-Priority: 990
	END
	in_chroot "$1" apt-get -q -y --no-install-recommends install "postgresql-$2" "postgresql-server-dev-$2" >/dev/null
}

# What is set here means nothing there, but how the network is reached, and that it is CI.
in_chroot()
{
	chroot "$1" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
		DEBIAN_FRONTEND=noninteractive ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
		${NATS_PUBLISH_CI:+NATS_PUBLISH_CI="$NATS_PUBLISH_CI"} "${@:2}"
}

remove_chroot()
{
	local pid
	[ -n "$1" ] || return 0
	for pid in $(ls /proc | grep -E '^[0-9]+$'); do
		[ "$(readlink "/proc/$pid/root" 2>/dev/null)" != "$1" ] || kill -9 "$pid" 2>/dev/null || true
	done
	[ ! -s "$1/etc/debian_chroot" ] ||
		copy_packages "$1/var/cache/apt/archives" "$chroot_cache/$(cat "$1/etc/debian_chroot").archives"
	findmnt -rno TARGET | awk -v below="$1/" 'index($0, below) == 1' | sort -r | xargs -r umount -l
	# never into what is still mounted
	rm -rf --one-file-system "$1"
}
