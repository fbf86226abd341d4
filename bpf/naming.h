/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which app a process is taken for, by its record alone: for quotas, which shall
 * hold from its first packet on. Names are compared by their hashes.
 *
 * esimbpf/apps.py says what an app's name is; here the same is found where it is
 * simple, and where it is not, nothing (NOT_KNOWN): no quota of an app applies
 * then, until the controller, which compares the two for every process that it
 * sees, has said which app it is. What differs:
 *
 *	config rules		the controller says so, by path or by process
 *	containers		NOT_KNOWN: their names are parts of long ids
 *	executables of snaps	by their own name, where no unit says the snap's
 *	interpreters		NOT_KNOWN with long options, and for those whose
 *				command line has subcommands or suffixes
 *	unknown arguments	NOT_KNOWN
 *
 * Words that say something about a name come from apps.py, too: see `words`.
 */
#ifndef ESIMBPF_NAMING_H
#define ESIMBPF_NAMING_H

#include <stdbool.h>
#include "vmlinux.h"
#include "maps.h"

/*
 * The functions that follow are not static, and take numbers, so that the
 * verifier looks at each once (see owner.h). `from` and `to` are places in the
 * text of a process's record: the executable, leaf first, the cgroup, the
 * arguments.
 */
#define CGROUP_AT PATH_BYTES
#define ARGS_AT (2 * PATH_BYTES)
#define TEXT_BYTES (2 * PATH_BYTES + ARGS_BYTES)
#define TEXT_BOUND 1024	/* a power of two above it */

#define MAX_PATH_DEPTH 24

#define NOT_KNOWN 0
#define NO_NAME 1	/* what was asked says nothing about the app */

#define HASH_BASIS 0xcbf29ce484222325ULL
#define HASH_PRIME 0x9e3779b97f4a7c15ULL
#define EXACTLY 0
#define ANY_CASE 0x2020202020202020ULL	/* makes ASCII letters small, and other characters others */

/* The hash of a path from that of what is above. */
#define ROOT 0
#define UNKNOWN_ROOT 1

static __always_inline __u64 below(__u64 above, __u64 name)
{
	return above * HASH_PRIME + name;
}

/* The name's hash from those of the path and of what is above. */
static __always_inline __u64 name_below(__u64 above, __u64 path)
{
	return path - above * HASH_PRIME;
}

/* Classes of characters: a bit for each of ASCII; what is none is a letter. */
#define LOW(c) (((c) & 64) ? 0 : 1ULL << ((c) & 63))
#define HIGH(c) (((c) & 64) ? 1ULL << ((c) & 63) : 0)
#define ONLY(c) LOW(c), HIGH(c)
#define ALL_BUT(c) ~LOW(c), ~HIGH(c)
#define DIGITS 0x03ff000000000000ULL
#define LETTERS 0x07fffffe07fffffeULL
#define HEX_LETTERS 0x0000007e00000000ULL
#define SMALL_HEX DIGITS, HEX_LETTERS
#define NUMBER DIGITS, 0
#define ALPHANUMERIC DIGITS, LETTERS
#define VERSION (DIGITS | LOW('.')), 0
#define ID_DIGITS 64
#define UUID_BYTES 36

static __always_inline __u8 char_at(__u32 slot, __u32 at)
{
	struct process *process = process_at(slot);

	return process && at < TEXT_BYTES ? ((const __u8 *)process->exe)[at] : 0;
}

/* The hash of a piece of text, of at most PATH_BYTES. */
__noinline __u64 hashed(__u32 slot, __u32 from, __u32 to, __u64 how)
{
	struct process *process = process_at(slot);
	__u64 hash = HASH_BASIS, piece;
	int i;

	if (!process)
		return NOT_KNOWN;
	for (i = 0; i <= PATH_BYTES / (int)sizeof(piece); i++) {
		const __u8 *text = (const __u8 *)process->exe + (from & (TEXT_BOUND - 1));
		__u32 left = to - from;

		barrier_var(left); /* else what the verifier is to look at is reckoned anew behind it */
		piece = 0;
		if (left < sizeof(piece)) {
			bpf_probe_read_kernel(&piece, left, text);
			return (hash ^ (piece | how)) * HASH_PRIME;
		}
		bpf_probe_read_kernel(&piece, sizeof(piece), text);
		hash = (hash ^ (piece | how)) * HASH_PRIME;
		hash ^= hash >> 32;
		from += sizeof(piece);
	}
	return NOT_KNOWN;
}

/* How far all characters from `at` on are of a class, at most up to `end`; backwards if that is before. */
__noinline __u32 span(__u32 slot, __u32 at, __u32 end, __u64 low, __u64 high)
{
	struct process *process = process_at(slot);
	__u32 back = (end - at) >> 31, step;
	int i;

	barrier_var(back);
	step = 1 - 2 * back;
	if (!process)
		return end;
	for (i = 0; i < PATH_BYTES; i++) {
		__u32 place = at - back;
		__u64 c, beyond, half;

		if (at == end || place >= TEXT_BYTES)
			break;
		/* Without branches, which the verifier would follow one by one. */
		c = ((const __u8 *)process->exe)[place];
		beyond = c >> 7;
		half = -((c >> 6 & 1) | beyond);
		c = c * (1 - beyond) + 'z' * beyond;
		if (!(((low & ~half) | (high & half)) >> (c & 63) & 1))
			break;
		at += step;
	}
	return at;
}

/* What a piece of text means, if it is one of `words`. */
static __always_inline __u32 meanings(__u32 slot, __u32 from, __u32 to, __u64 how)
{
	struct word *word = word_find(hashed(slot, from, to, how));

	return word ? word->meanings : 0;
}

/* --- what the cgroup says ------------------------------------------------------ */

#define SCOPE (1U << 0)
#define SERVICE (1U << 1)
#define CONTAINER (1U << 2)
#define MANAGER (1U << 3)

/* What one cgroup's name says of what is in it. */
__noinline __u32 kind_of_cgroup(__u32 slot, __u32 from, __u32 to)
{
	__u32 dot = span(slot, to, from, ALL_BUT('.')), kind = 0, said, id_end = to;

	if (dot > from) {
		said = meanings(slot, dot, to, EXACTLY);
		if (said & WORD_SCOPE) {
			kind |= SCOPE;
			id_end = dot - 1;
		}
		if (said & WORD_SERVICE)
			kind |= SERVICE;
	}
	said = meanings(slot, from, to, EXACTLY);
	if (said & WORD_MANAGER)
		kind |= MANAGER;
	if (to - from > CONTAINER_PREFIX_BYTES)
		said |= meanings(slot, from, from + CONTAINER_PREFIX_BYTES, EXACTLY);
	if (said & WORD_CONTAINERS || id_end - span(slot, id_end, from, SMALL_HEX) >= ID_DIGITS)
		kind |= CONTAINER;
	return kind;
}

static __always_inline bool is_terminal(__u32 slot, __u32 from, __u32 to)
{
	/* By the last part of an id as well: org.gnome.Terminal. */
	return (meanings(slot, from, to, ANY_CASE) |
		meanings(slot, span(slot, to, from, ALL_BUT('.')), to, ANY_CASE)) & WORD_TERMINAL;
}

__noinline __u64 name_of_what_is_no_terminal(__u32 slot, __u32 from, __u32 to)
{
	return from >= to || is_terminal(slot, from, to) ? NO_NAME : hashed(slot, from, to, EXACTLY);
}

/* Where a name begins that D-Bus has put the number of a connection before: `dbus-:1.2-`, also escaped. */
__noinline __u32 behind_bus(__u32 slot, __u32 from, __u32 to)
{
	__u32 colon = span(slot, from, to, ALL_BUT(':')), at;

	if (colon >= to || colon - from > sizeof("dbus\\x2d") - 1)
		return from;
	at = span(slot, colon + 1, to, VERSION);
	if (char_at(slot, at) == '-')
		return at + 1;
	return char_at(slot, at) == '\\' ? at + sizeof("\\x2d") - 1 : from;
}

/* Where a UUID and what parts it from the name begin; `to` if there is none. */
__noinline __u32 before_uuid(__u32 slot, __u32 from, __u32 to)
{
	__u32 at = to - UUID_BYTES - 1;
	__u8 parting = char_at(slot, at);

	if (to - from <= UUID_BYTES || (parting != '-' && parting != '.'))
		return to;
	if (span(slot, to, at + 1, DIGITS | LOW('-'), HEX_LETTERS) != at + 1)
		return to;
	return char_at(slot, to - 13) == '-' && char_at(slot, to - 18) == '-' &&
	       char_at(slot, to - 23) == '-' && char_at(slot, to - 28) == '-' ? at : to;
}

/* `app[-LAUNCHER]-ID-RANDOM.scope` and `app[-LAUNCHER]-ID[@RANDOM].service`, from behind the first dash on. */
__noinline __u64 name_by_desktop(__u32 slot, __u32 from, __u32 to, __u32 is_scope)
{
	__u32 end = span(slot, from, to, ALL_BUT('@')), bare = before_uuid(slot, from, end), dash;

	if (bare != end) {
		end = bare;
	} else if (end == to) {
		__u32 random = span(slot, to, from, ALL_BUT('-'));

		if (random > from &&
		    (is_scope || (meanings(slot, random, to, EXACTLY) & WORD_RANDOM) ||
		     (random < to && span(slot, random, to, NUMBER) == to) ||
		     (to - random >= 8 && span(slot, random, to, SMALL_HEX) == to)))
			end = random - 1;
	}
	dash = span(slot, from, end, ALL_BUT('-'));
	if (dash < end && dash > from && span(slot, from, dash, ALPHANUMERIC) == dash) {
		if (is_terminal(slot, from, dash))
			return NO_NAME;
		from = dash + 1;
	}
	return name_of_what_is_no_terminal(slot, behind_bus(slot, from, end), end);
}

static __always_inline bool is_host(__u32 slot, __u32 from, __u32 to)
{
	return (meanings(slot, from, to, ANY_CASE) & WORD_HOST) || is_terminal(slot, from, to);
}

/* Whether the instance of a service is that of a connection: `4-10.0.0.1:873-10.0.0.2:55012`. */
static __always_inline bool is_connection(__u32 slot, __u32 from, __u32 to)
{
	__u32 number = span(slot, from, to, NUMBER);

	if (number == from || char_at(slot, number) != '-')
		return false;
	from = number + 1;
	return span(slot, from, to, ALL_BUT(':')) < to ||
	       (span(slot, from, to, NUMBER) < to &&
		span(slot, from, to, DIGITS | LOW('-'), HIGH('_')) == to);
}

/* Of a service, without its suffix. */
__noinline __u64 name_by_service(__u32 slot, __u32 from, __u32 to)
{
	__u32 begin = behind_bus(slot, from, to), at = span(slot, begin, to, ALL_BUT('@')), said;

	if (begin != from)
		return name_of_what_is_no_terminal(slot, begin, at);
	said = meanings(slot, from, from + PREFIX_BYTES, EXACTLY);
	/* Names that systemd-run makes up: digits, and letters of a few kinds. */
	if ((said & WORD_TRANSIENT) &&
	    span(slot, from + PREFIX_BYTES, at, DIGITS | LOW('-'),
		 HEX_LETTERS | HIGH('u') | HIGH('r') | HIGH('p') | HIGH('i')) == at)
		return NO_NAME;
	if ((said & WORD_HOST_PREFIX) || is_host(slot, from, at))
		return NO_NAME;
	if (at + 1 >= to || is_connection(slot, at + 1, to))
		to = at;
	return from >= to ? NO_NAME : hashed(slot, from, to, EXACTLY);
}

/* Of a service of OpenRC or procd. */
__noinline __u64 name_by_manager(__u32 slot, __u32 from, __u32 to)
{
	return from >= to || is_host(slot, from, to) ? NO_NAME : hashed(slot, from, to, EXACTLY);
}

/* Of a scope or service. */
__noinline __u64 name_by_unit(__u32 slot, __u32 from, __u32 to)
{
	__u32 said = meanings(slot, from, from + PREFIX_BYTES, EXACTLY), dot = span(slot, to, from, ALL_BUT('.'));
	__u32 is_scope = meanings(slot, dot, to, EXACTLY) & WORD_SCOPE;

	to = dot - 1;

	if (said & WORD_DESKTOP)
		return name_by_desktop(slot, from + PREFIX_BYTES, to, is_scope);
	if ((said & WORD_SNAP) && char_at(slot, from + PREFIX_BYTES) == '.') {
		from += PREFIX_BYTES + 1;
		return name_of_what_is_no_terminal(slot, from, span(slot, from, to, ALL_BUT('.')));
	}
	return is_scope ? NO_NAME : name_by_service(slot, from, to);
}

/* Looks at the cgroup's path: notes which app it names, if any, and the hashes of all cgroups above. */
__noinline int note_cgroup(__u32 slot)
{
	struct process *process = process_at(slot);
	struct ancestry *ancestry = ancestry_of(slot);
	__u32 at = CGROUP_AT, next = at, end, kinds = 0, kind = 0, last = 0, last_end = 0, above = 0, above_end = 0;
	__u64 path, name;
	int i;

	if (!process || !ancestry)
		return 0;
	end = at + process->cgroup_bytes;
	/* What the loop keeps is kept there: the verifier does not follow what it would be each time. */
	ancestry->unit = 0;
	for (i = 0; i < ANCESTORS; i++) {
		ancestry->paths[i] = NOT_KNOWN;
		if (at >= end || at >= ARGS_AT)
			continue;
		next = span(slot, at, end, ALL_BUT(0));
		kind = kind_of_cgroup(slot, at, next);
		kinds |= kind;
		if (!ancestry->unit && (kind & (SCOPE | SERVICE)))
			ancestry->unit = at | next << 16;
		ancestry->paths[i] = hashed(slot, at, next, EXACTLY);
		above = last;
		above_end = last_end;
		last = at;
		last_end = next;
		at = next + 1;
	}
	/* From the root on; where that is not known, as if it were another. */
	path = at < end || process->cgroup_bytes >= PATH_BYTES ? UNKNOWN_ROOT : ROOT;
	ancestry->paths[ANCESTORS] = path;
	for (i = ANCESTORS - 1; i >= 0; i--) {
		if (ancestry->paths[i] != NOT_KNOWN)
			path = below(path, ancestry->paths[i]);
		ancestry->paths[i] = path;
	}
	if (kinds & CONTAINER)
		name = NOT_KNOWN;
	else if ((kind & MANAGER) && above)
		name = name_by_manager(slot, above, above_end);
	else if (meanings(slot, last, last + MANAGER_PREFIX_BYTES, EXACTLY) & WORD_MANAGER_PREFIX)
		name = name_by_manager(slot, last + MANAGER_PREFIX_BYTES, last_end);
	else if (ancestry->unit)
		name = name_by_unit(slot, ancestry->unit & 0xffff, ancestry->unit >> 16);
	else
		name = NO_NAME;
	ancestry->named = name;
	return 0;
}

/* --- what the executable and the arguments say ------------------------------------ */

/* The hash by which `words` has a program that runs others, with or without its version; NO_NAME if it has not. */
__noinline __u64 runner(__u32 slot, __u32 from, __u32 to)
{
	__u64 hash = hashed(slot, from, to, EXACTLY);
	struct word *word = word_find(hash);
	__u32 end;

	if (word && (word->meanings & WORD_RUNNER))
		return hash;
	end = span(slot, to, from, VERSION);
	if (end == from || end == to)
		return NO_NAME;
	if (char_at(slot, end - 1) == '-')
		end--;
	hash = hashed(slot, from, end, EXACTLY);
	word = word_find(hash);
	return word && (word->meanings & WORD_INTERPRETER) ? hash : NO_NAME;
}

/* Where the name of what is run begins in an argument. */
static __always_inline __u32 basename(__u32 slot, __u32 from, __u32 to)
{
	return span(slot, to, from, ALL_BUT('/'));
}

/* The name of a script by the argument that says where it is. */
__noinline __u64 name_of_script(__u32 slot, __u32 from, __u32 to)
{
	__u32 name;

	/* A pipe: `bash <(curl …)` runs /dev/fd/63. */
	if ((meanings(slot, from, from + 5, EXACTLY) | meanings(slot, from, from + 6, EXACTLY)) & WORD_PIPES)
		return NO_NAME;
	to = span(slot, to, from, ONLY('/'));
	name = basename(slot, from, to);
	if (name == to || (to - name <= 2 && span(slot, name, to, ONLY('.')) == to))
		return NO_NAME;
	return hashed(slot, name, to, EXACTLY);
}

#define WORDS_LOOKED_AT 8

enum expected { ANYTHING, VALUE, SCRIPT };

/* The script that an interpreter runs, by its command line from `at` on; NO_NAME if it runs none. */
__noinline __u64 name_by_script(__u32 slot, __u32 at, __u64 interpreter)
{
	struct process *process = process_at(slot);
	struct word *word = word_find(interpreter), *other;
	__u32 end, next, expected = ANYTHING, i;
	bool cut;

	if (!process || !word)
		return NOT_KNOWN;
	end = ARGS_AT + process->args_bytes;
	cut = process->args_bytes >= ARGS_BYTES;
	next = span(slot, at, end, ALL_BUT(0));
	at = basename(slot, at, next);
	other = word_find(runner(slot, span(slot, at, next, ONLY('-')), next));
	if (other && (other->meanings & WORD_NOT_FOLLOWED))
		return NOT_KNOWN;
	if (!other || other->options != word->options)
		return NO_NAME; /* the program has written a title over its arguments */
	for (i = 0; i < WORDS_LOOKED_AT; i++) {
		__u32 letter;
		__u64 bit;
		__u8 first;

		at = next + 1;
		next = at < end ? span(slot, at, end, ALL_BUT(0)) : end;
		if (next == end && cut)
			return NOT_KNOWN;
		if (at >= end)
			return NO_NAME;
		first = char_at(slot, at);
		if (expected == VALUE) {
			expected = ANYTHING;
			continue;
		}
		if (expected == SCRIPT || (first != '-' && (first != '+' || !(word->meanings & WORD_PLUS))))
			return name_of_script(slot, at, next);
		if (next == at + 1 && first == '-')
			return NO_NAME;
		if (char_at(slot, at + 1) == '-') {
			if (next == at + 2)
				expected = SCRIPT;
			else if ((word->meanings & WORD_LONG) || span(slot, at, next, ALL_BUT('=')) == next)
				return NOT_KNOWN;
			continue;
		}
		letter = span(slot, at + 1, next, ~0ULL, ~(word->value | word->attached | word->code | word->script));
		if (letter == next)
			continue;
		bit = 1ULL << (char_at(slot, letter) & 63);
		if (word->code & bit)
			return NO_NAME;
		if (word->script & bit) {
			if (letter + 1 < next)
				return name_of_script(slot, letter + 1, next);
			expected = SCRIPT;
		} else if ((word->value & bit) && letter + 1 == next) {
			expected = VALUE;
		}
	}
	return NOT_KNOWN;
}

/* By the executable; of a program that plays many, by the one that it plays; of an interpreter, by its script. */
__noinline __u64 name_by_program(__u32 slot)
{
	struct process *process = process_at(slot);
	__u32 from = 0, to, at = ARGS_AT, end;
	struct word *word;
	__u64 known, name;

	if (!process || !process->exe_bytes)
		return NOT_KNOWN;
	to = span(slot, 0, PATH_BYTES, ALL_BUT(0));
	known = runner(slot, from, to);
	word = word_find(known);
	if (!word)
		return hashed(slot, from, to, EXACTLY);
	if (!process->args_bytes)
		return NOT_KNOWN;
	end = at + process->args_bytes;
	if (word->meanings & WORD_MULTI_CALL) {
		name = hashed(slot, from, to, EXACTLY);
		to = span(slot, at, end, ALL_BUT(0));
		from = basename(slot, at, to);
		if (hashed(slot, from, to, EXACTLY) == name && to + 1 < end && char_at(slot, to + 1) != '-') {
			at = to + 1;
			to = span(slot, at, end, ALL_BUT(0));
			from = basename(slot, at, to);
		}
		from = span(slot, from, to, ONLY('-'));
		if (from == to)
			return name;
		known = runner(slot, from, to);
		word = word_find(known);
	}
	name = hashed(slot, from, to, EXACTLY);
	if (!word || !(word->meanings & WORD_INTERPRETER))
		return word && (word->meanings & WORD_NOT_FOLLOWED) ? NOT_KNOWN : name;
	if (word->meanings & WORD_NOT_FOLLOWED)
		return NOT_KNOWN;
	known = name_by_script(slot, at, known);
	return known == NO_NAME ? name : known;
}

/* Notes the hash of the executable's whole path; 0 if it is not known. */
__noinline int note_exe(__u32 slot)
{
	struct process *process = process_at(slot);
	__u32 at = 0, next, end, i;
	__u64 path = ROOT;

	if (!process)
		return 0;
	end = process->exe_bytes;
	if (end >= PATH_BYTES)
		end = 0;
	for (i = 0; i < MAX_PATH_DEPTH; i++) {
		if (at >= end)
			break;
		next = span(slot, at, end, ALL_BUT(0));
		path = below(path, hashed(slot, at, next, EXACTLY));
		at = next + 1;
	}
	process->exe_path = end && i < MAX_PATH_DEPTH ? path : 0;
	return 0;
}

/* Notes which app a process is taken for; its cgroup has been looked at. */
static __always_inline void note_app(__u32 slot)
{
	struct process *process = process_at(slot);
	struct ancestry *ancestry = ancestry_of(slot);

	if (process && ancestry)
		process->app = ancestry->named == NO_NAME ? name_by_program(slot) : ancestry->named;
}

#endif
