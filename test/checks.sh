# Shell functions of the scripts that check one thing after the other. To be sourced; needs $work, a directory.
#
#	check NAME CMD...    prints "ok - NAME" or, after the end of what CMD has said, "not ok - NAME", and is false then
#	summary              prints "N passed, N failed", and is false unless nothing failed

passed=0
failed=0

check()
{
	local name=$1
	shift
	if ("$@") >"$work/log" 2>&1 </dev/null; then
		passed=$((passed + 1))
		echo "ok - $name"
	else
		failed=$((failed + 1))
		tail -n 60 "$work/log"
		echo "not ok - $name"
		return 1
	fi
}

summary()
{
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
