
=pod

=head1 NAME

Chaos::Plan - what happens in a run of the fault harness, all of it decided by the seed

=head1 SYNOPSIS

  use Chaos::Plan;

  my @actions = Chaos::Plan::faults($seed, $seconds, standby => 0);
  my $transaction = Chaos::Plan::transaction($seed, $client, $number, atomic => 1, big => 0);
  my $edits = Chaos::Plan::edits($seed, $editor, $number);

=head1 DESCRIPTION

faults() returns what is done to servers, network and sessions, in the order of time: hashes of C<at> (seconds from the
start), C<what> and what that needs. What lasts has an action that ends it, too. Between a node and PostgreSQL is its box,
a SilentProxy; what happens to that is nothing to the cluster.

A node that is hung or silent for longer than every timeout is so alone: no other fault of servers, networks and streams
begins or ends in that time, nor does PostgreSQL, so that what is promised then can be looked at. Before it all connections are cut, so that some
sessions come to be at that node. So is an outage, in which no box takes connections, for longer than WAL is kept for that. A calm is alone, too: in it, nothing happens at all, while messages of the outbox wait for
what is away: for the streams of @WAYWARD, which are taken away and brought back at other times, as long as it happens to be.

transaction() returns what the client does in its n-th transaction: a hash of C<steps>, C<end> (commit or rollback),
C<ids> (whether messages have ids of our own), C<anonymous> (none at all), C<impatient> (with timeouts of so many
milliseconds), C<hurried> (with a statement_timeout of so many) and C<retries> (how often it tries again what has failed;
never without ids of our own, without which a second try is another message).

A message's payload is its name, C<client.transaction.number>, a bar, the length of what follows another bar. Who edits
a message of the outbox adds a tilde and a name of the edit.

edits() returns what an editor does in its n-th transaction with messages that wait in the outbox: a hash of C<steps>, C<hold> (for how many
seconds it keeps their rows locked), C<end> and C<pause>.

A transaction changes one row at most of those that are read by Chaos::Reader, the kept ones, for two could be a deadlock.

The clients of database C<second> write only for the outbox, and the one of @CANARY a message at a time, always: through the
table and through the WAL.

=cut

package Chaos::Plan;

use strict;
use warnings FATAL => 'all';

use List::Util qw(max);

our $CLIENTS = 8;
our @SECOND = (9, 10);
our $CANARY = 11;
our @CLIENTS = (1 .. $CLIENTS, @SECOND, $CANARY);
our $EDITORS = 2;
our $NODES = 3;

# Each has a stream of its own, CHAOS_<NAME>, of the subjects chaos.<name>.>
our @STREAMS = qw(sync async uncritical held atomic outbox change kept);

# And this one, to which nobody publishes but the relay of the WAL, of both kinds of messages.
our $WAL_STREAM = 'wal';
our $LANES = 4;

# These too, of what goes through the outbox; but late, gone and unheard do not exist at first, and can lose their subjects,
# those of unheard to clients who answer nothing. noack acknowledges only at times. What is for gone goes through the WAL.
our @WAYWARD = qw(late unheard noack gone);

# Tables of rows that clients change and that are read again and again, by their delivery.
our @KEPT = qw(on_commit outbox wal);
our $KEYS = 40;

# No server takes more than the first; it is longer than all other messages.
our $MAX_PAYLOAD = 256 * 1024;
my $LARGE = 270_000;

# The most that a fault may last; so long after the last one everything is whole again.
our $LONGEST = 8;

# As in chaos.pl; a hang lasts longer than each of them.
our $ACK_TIMEOUT = 5;
our $COMMIT_TIMEOUT = 8;

# WAL is kept so long for NATS, or so much of it; an outage is longer.
our $DIVERT_SECONDS = 4;
our $DIVERT_BYTES = 16 * 1024 * 1024;
my $OUTAGE_SECONDS = $DIVERT_SECONDS + 10;

# Between two faults that are alone.
my $ALONE_SECONDS = 10;

# How long a calm is.
my $CALM_SECONDS = 14;

# Behind the promotion of the standby, its old primary is started again, and knows nothing of it.
my $RETURN_SECONDS = 4;

my %WEIGHT_OF_FAULT = (
	server_hang => 3, box_hang => 3, box_silence => 3, box_hold => 1, box_cut => 3, box_end => 2, commits_begin => 3,
	server_kill => 3, server_stop => 3, network_cut => 3, network_slow => 2, step_down => 4, stream_full => 2,
	stream_away => 4, stream_back => 3, calm_begin => 3, boxes_refuse => 2,
	backend_terminate => 3, backend_cancel => 4, backend_kill => 1,
	relay_terminate => 1, relay_cancel => 1, relay_kill => 1, postgres_crash => 1, postgres_kill => 1, postgres_restart => 1);

my %END_OF_FAULT = (
	server_hang => 'server_continue', box_hang => 'box_pass', box_silence => 'box_pass', box_hold => 'box_pass',
	commits_begin => 'commits_end', server_kill => 'server_start', server_stop => 'server_continue', network_cut => 'network_heal',
	network_slow => 'network_heal', stream_full => 'stream_room', calm_begin => 'calm_end', boxes_refuse => 'boxes_accept');

my %WEIGHT_OF_STEP = (
	sync => 4, async => 6, uncritical => 2, held => 6, outbox => 4, late => 0.6, unheard => 0.6, noack => 0.6, large => 0.2,
	wal => 3, gone => 0.6, change_on_commit => 2, change_async => 1, change_sync => 1, change_outbox => 2, change_wal => 3,
	(map { ("kept_$_" => 1) } @KEPT),
	await => 2, flush => 1, futures => 1, savepoint => 3, rollback_to => 2, release => 1, break => 1, idle => 1);

my %WEIGHT_OF_OUTBOX_STEP = (outbox => 4, late => 1, unheard => 1, noack => 1, gone => 1, large => 0.2,
	savepoint => 1, rollback_to => 0.5, break => 0.2, idle => 0.5);

my %WEIGHT_OF_EDIT = (edit => 4, edit_same_id => 2, delete => 2, retry => 3, time => 3, lock => 3, edit_dead => 2, retry_all => 0.2);

sub faults
{
	my ($seed, $seconds, %options) = @_;
	srand($seed);

	my $promotion = $options{standby} ? $seconds / 2 : undef;
	my @actions = defined $promotion ? ({ at => $promotion, what => 'promote' }, { at => $promotion + $RETURN_SECONDS, what => 'old_primary_returns' }) : ();
	my %busy;
	for (my $at = 1 + rand; $at < $seconds - 1; $at += 0.3 + rand 2.5)
	{
		my $action = _fault($at, \%busy, $promotion) or next;
		next if $action->{at} > $seconds - 1;
		my $length = delete $action->{length};
		push @actions, { at => $action->{at} - 2, what => 'boxes_cut' } if $action->{what} =~ /_hang$/;
		push @actions, $action;
		# while megabytes are held, servers no longer read, then the COMMITs are cancelled, and later servers read again
		push @actions, { %$action, at => $action->{at} + 0.7, what => 'commits_stall' },
			{ %$action, at => $action->{at} + $length - 1.5, what => 'commits_cancel' } if $action->{what} eq 'commits_begin';
		my $end = $END_OF_FAULT{ $action->{what} } or next;
		push @actions, { %$action, at => $action->{at} + $length, what => $end };
	}
	return sort { $a->{at} <=> $b->{at} } @actions;
}

# One more fault, or nothing when what it would hit is still hit by another one. %$busy: until when.
sub _fault
{
	my ($at, $busy, $promotion) = @_;
	my $what = _weighted(\%WEIGHT_OF_FAULT);
	my $length = 0.3 + rand($LONGEST - 0.3);
	my @streams = $what =~ /^stream_(away|back)$/ ? @WAYWARD : (@STREAMS, $WAL_STREAM, @WAYWARD);
	my ($node, $client, $stream) = (1 + int rand $NODES, 1 + int rand $CLIENTS, $streams[ rand @streams ]);
	my ($rate, $direction) = (64 * 2**int(rand 6), (qw(both both in out))[ rand 4 ]);
	my %fault = (at => $at, what => $what, length => $length);

	if ($what =~ /^(server_hang|box_hang|boxes_refuse|commits_begin|calm_begin)$/)
	{
		return _alone(\%fault, $busy) ? { %fault, $what =~ /_hang$/ ? (node => $node, direction => $direction) : () } : undef;
	}
	if ($what =~ /^box_(cut|end)$/)
	{
		return if ($busy->{"node $node"} // 0) > $at;
		@fault{qw(node direction)} = ($node, $direction);
	}
	elsif ($what =~ /^(server|network|box)_/)
	{
		# two of three may be gone at once, never all
		return if ($busy->{"node $node"} // 0) > $at;
		return if 2 <= grep { /^node/ && $busy->{$_} > $at } keys %$busy;
		$busy->{"node $node"} = $at + $length + 0.5;
		$fault{node} = $node;
		$fault{direction} = $direction if $what =~ /^(network_cut|box_.*)$/;
		$fault{kilobits} = $rate if $what eq 'network_slow';
	}
	elsif ($what =~ /^(stream_|step_down)/)
	{
		return if ($busy->{"stream $stream"} // 0) > $at;
		$busy->{"stream $stream"} = $at + $length + 0.5 if $what eq 'stream_full';
		$fault{stream} = $stream;
	}
	elsif ($what =~ /^(postgres_|backend_kill|relay_kill)/)
	{
		# let it come up, and let the new primary come up
		return if ($busy->{postgres} // 0) > $at;
		return if defined $promotion && abs($promotion - $at) < 10;
		$busy->{postgres} = $at + 10;
	}
	elsif ($what =~ /^relay_/)
	{
		return if ($busy->{relay} // 0) > $at;
	}
	$fault{client} = $client if $what =~ /^backend_/;
	return \%fault;
}

# Makes it wait for the end of all others. Returns nothing when the last one of its kind was a moment ago.
sub _alone
{
	my ($fault, $busy) = @_;
	return if ($busy->{alone} // 0) > $fault->{at};
	$fault->{at} = 2 + max($fault->{at}, values %$busy);
	if ($fault->{what} eq 'commits_begin')
	{
		@$fault{qw(signal rate length)} = ((qw(INT INT TERM))[ rand 3 ], (0, 0, 20_000)[ rand 3 ], 3 + rand 2);
	}
	else { $fault->{length} = { calm_begin => $CALM_SECONDS, boxes_refuse => $OUTAGE_SECONDS }->{ $fault->{what} } // $COMMIT_TIMEOUT + 1 + rand 2; }
	my $end = $fault->{at} + $fault->{length} + 0.5;
	$busy->{relay} = $end if $fault->{what} =~ /^(calm_begin|boxes_refuse)$/;
	$busy->{$_} = $end foreach 'postgres', (map { "node $_" } 1 .. $NODES), map { "stream $_" } @STREAMS, $WAL_STREAM, @WAYWARD;
	$busy->{alone} = $end + $ALONE_SECONDS;
	return 1;
}

sub transaction
{
	my ($seed, $client, $number, %options) = @_;
	srand(($seed * 31 + $client) * 1_000_003 + $number);

	return _canary("$client.$number") if $client == $CANARY;
	my $is_second = grep { $_ == $client } @SECOND;
	my $ids = rand() < 0.6;
	my %transaction = (
		name => "$client.$number",
		ids => $ids,
		anonymous => !$ids && rand() < 0.2,
		impatient => rand() < 0.2 ? 50 + int rand 1000 : 0,
		hurried => rand() < 0.1 ? 50 + int rand 1000 : 0,
		retries => $ids && rand() < 0.7 ? 1 + int rand 4 : 0,
		end => rand() < 0.85 ? 'commit' : 'rollback',
		pause => rand() < 0.2 ? rand 0.2 : 0);
	my $style = rand;
	$transaction{steps} =
		  $is_second ? _mixed(1 + int rand 12, \%WEIGHT_OF_OUTBOX_STEP)
		: $options{big} ? _big()
		: $style < 0.15 && $options{atomic} ? _atomic()
		: $style < 0.18 ? _bulk()
		: $style < 0.182 ? _big()
		: _mixed(1 + int rand 12, \%WEIGHT_OF_STEP);
	$transaction{pause} += rand 0.3 if $is_second;
	my $message = 0;
	foreach my $step (@{ $transaction{steps} })
	{
		$step->{message} = $message, $message += $step->{count} // 1 if $step->{mode};
	}
	return \%transaction;
}

sub _canary
{
	my ($name) = @_;
	return { name => $name, ids => 1, anonymous => 0, impatient => 0, hurried => 0, retries => 0, end => 'commit', pause => 0.2,
		steps => [ map { { what => 'publish', mode => (qw(outbox wal))[$_], message => $_, length => 0 } } 0, 1 ] };
}

# What a client's message of a mode is published to. Of the WAL, several clients and both kinds have a subject in common: it is to be
# in the order of their commits.
sub subject
{
	my ($mode, $client) = @_;
	return "chaos.$WAL_STREAM." . ($client == $CANARY ? 'canary' : $client % $LANES) if $mode =~ /^(change_)?wal$/;
	my $name = $mode eq 'large' ? 'outbox' : $mode =~ s/^change_/change./r;
	return "chaos.$name.$client";
}

sub edits
{
	my ($seed, $editor, $number) = @_;
	srand(($seed * 37 + $editor) * 1_000_003 + $number);
	return {
		steps => [ map { _edit() } 1 .. 1 + int rand 4 ],
		hold => rand() < 0.3 ? rand 4 : 0,
		end => rand() < 0.8 ? 'commit' : 'rollback',
		pause => rand 0.4 };
}

# The new subject: a mode's, or one more in the stream of the old one, or nothing, when it stays. The time: of next_attempt_at. Only what waits
# to be tried again, or any row.
sub _edit
{
	my $what = _weighted(\%WEIGHT_OF_EDIT);
	my $mode = (qw(outbox late unheard noack moved))[ rand 5 ];
	my $time = ('NULL', 'now()', "now() + interval '5 s'", "now() + interval '2 h'", "'infinity'", "'-infinity'")[ rand 6 ];
	return { what => $what, to => rand() < 0.3 ? $mode : undef, time => $time, only_waiting => rand() < 0.7, length => int rand 500 };
}

# Held messages alone, for one stream, as an atomic batch must be; more than one write to the socket.
sub _atomic
{
	return [ { what => 'set_atomic' }, map { +{ %{ _message('atomic') }, length => int rand 8000 } } 1 .. 1 + int rand 30 ];
}

# More than fits into work_mem, or into the window.
sub _bulk
{
	my @modes = (qw(held async outbox wal), rand() < 0.3 ? 'late' : ());
	my $mode = $modes[ rand @modes ];
	return [ { %{ _message($mode) }, count => 50 + int rand 1500, length => 10 } ];
}

# Megabytes.
sub _big
{
	return [ { %{ _message('held') }, count => 100 + int rand 500, length => 8000 } ];
}

sub _mixed
{
	my ($count, $weights) = @_;
	my $depth = 0;
	my @steps;
	foreach (1 .. $count)
	{
		my $what = _weighted($weights);
		next if $what =~ /^(rollback_to|release)$/ && $depth == 0;
		next if $what =~ /^kept_/ && grep { ($_->{mode} // '') =~ /^kept_/ } @steps;
		$depth++ if $what eq 'savepoint';
		$depth-- if $what eq 'release';
		push @steps, $what =~ /^(await|flush|futures|savepoint|rollback_to|release|break|idle)$/ ? { what => $what } : _message($what);
	}
	return \@steps;
}

sub _message
{
	my ($mode) = @_;
	my $length = int(rand() < 0.05 ? rand 30_000 : rand 500);
	return { what => 'publish', mode => $mode, length => $mode eq 'large' ? $LARGE : $length, $mode =~ /^kept_/ ? (key => 1 + int rand $KEYS) : () };
}

sub _weighted
{
	my ($weights) = @_;
	my $sum = 0;
	$sum += $_ foreach values %$weights;
	my $left = rand $sum;
	foreach my $name (sort keys %$weights)
	{
		$left -= $weights->{$name};
		return $name if $left < 0;
	}
	die 'weights';
}

1;
