# shellcheck shell=sh
# What the scripts share; they source it from the top of the checkout.

say() { printf '==> %s\n' "$*"; }

# fail MESSAGE HINT…: what is wrong, what to do about it, one to a line.
fail() {
	printf 'scripts/%s: %s\n' "${0##*/}" "$1" >&2
	shift
	[ $# -eq 0 ] || printf '  %s\n' "$@" >&2
	exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# Run as root, through sudo if need be.
as_root() {
	if is_root; then "$@"; else sudo "$@"; fi
}

# Run as the owner of the checkout: what root makes in a user's folder, the user could not change or remove.
as_owner() {
	if [ "$home" ]; then
		setpriv --reuid="$owner" --regid="$group" --clear-groups env HOME="$home" "$@"
	else
		"$@"
	fi
}

owner=$(stat -c %u .)
group=$(stat -c %g .)
home=
if is_root && [ "$owner" -ne 0 ]; then
	home=$(getent passwd "$owner" | cut -d : -f 6)
fi

# Another interpreter's settings must not leak into ours.
unset PYTHONHOME PYTHONPATH PYTHONSTARTUP VIRTUAL_ENV
