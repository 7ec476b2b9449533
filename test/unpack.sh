# Shell functions of the scripts that need something of another Debian release. To be sourced.
#
#	debian_mirror                        prints the one that apt uses here
#	unpack_package RELEASE PACKAGE DIR   the package, unpacked (not installed) into DIR, from the mirror that apt already
#	                                     uses; false, and why on stderr, if it can't be had

# Others' repositories can come first.
debian_mirror()
{
	local label
	for label in 'Label: Debian' 'Codename: bookworm' 'Codename: trixie' 'Codename: forky'; do
		apt-get indextargets --format '$(SITE)' 'Created-By: Packages' "$label" 2>/dev/null
	done | grep . | head -n 1
}

unpack_package()
{
	local release=$1 package=$2 dir=$3 site work status=0
	site=$(debian_mirror)
	[ -n "$site" ] || { echo "apt knows no Debian mirror" >&2; return 1; }
	work=$(mktemp -d)
	mkdir -p "$work/lists/partial" "$work/archives/partial" "$dir"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $release main" >"$work/sources.list"
	local apt=(apt-get -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::State::Lists="$work/lists" -o Dir::Cache="$work" -o Acquire::Check-Valid-Until=false
		-o Acquire::Retries=3 -o APT::Sandbox::User=root)
	{ "${apt[@]}" update && (cd "$work" && "${apt[@]}" download "$package") &&
		dpkg -x "$work/$package"_*.deb "$dir"; } >"$work/log" 2>&1 || { status=1; cat "$work/log" >&2; }
	rm -rf "$work"
	return "$status"
}
