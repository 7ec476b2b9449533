# The fault harness without faults: the same seed is the same plan, and the checker tells each promise that was broken from
# one that was kept.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use Chaos::Checker;
use Chaos::Plan;

# The plan

my @plan = Chaos::Plan::faults(7, 1000);
is_deeply([ Chaos::Plan::faults(7, 1000) ], \@plan, 'the same seed is the same plan of faults');
isnt(join(' ', map { $_->{at} } Chaos::Plan::faults(8, 1000)), join(' ', map { $_->{at} } @plan), 'another seed is another');
is_deeply([ map { $_->{at} } @plan ], [ sort { $a <=> $b } map { $_->{at} } @plan ], 'in the order of time');

my %times;
$times{ $_->{what} }++ foreach @plan;
is($times{server_start}, $times{server_kill}, 'every server that is killed is started');
is($times{server_continue}, $times{server_stop} + $times{server_hang}, 'every server that is stopped is continued');
is($times{box_pass}, $times{box_silence} + $times{box_hold} + $times{box_hang}, 'every box that is silent passes again');
is($times{commits_end}, $times{commits_begin}, 'every COMMIT of megabytes comes to an end');
is($times{$_}, $times{commits_begin}, "with $_") foreach qw(commits_stall commits_cancel);
is($times{network_heal}, $times{network_cut} + $times{network_slow}, 'every network that is cut or slowed is healed');
is($times{stream_room}, $times{stream_full}, 'every stream that is full gets room');
ok($times{$_}, "the plan has $_") foreach qw(step_down backend_terminate backend_cancel backend_kill relay_terminate relay_kill
	postgres_crash postgres_restart box_cut box_end boxes_cut);
is_deeply([ disturbances(@plan) ], [], 'a hang is alone, and longer than every timeout');
is(most_gone_at_once(@plan), 2, 'two of three nodes may be gone at once');
is_deeply([ map { $_->{at} } grep { $_->{what} eq 'promote' } Chaos::Plan::faults(7, 300, standby => 1) ], [150],
	'a standby is promoted in the middle');

is_deeply(Chaos::Plan::transaction(7, 3, 20, atomic => 1), Chaos::Plan::transaction(7, 3, 20, atomic => 1),
	'the same seed is the same transaction');
my @transactions = map { Chaos::Plan::transaction(7, 1, $_, atomic => 1) } 1 .. 300;
my %modes = map { ($_->{mode} // $_->{what} => 1) } map { @{ $_->{steps} } } @transactions;
is(scalar(grep { $_->{retries} && !$_->{ids} } @transactions), 0, 'what is tried again has ids');
ok($modes{$_}, "some transaction has $_") foreach qw(sync async uncritical held atomic outbox change_on_commit change_async
	change_sync change_outbox await flush futures savepoint rollback_to release break idle set_atomic);
is(scalar(grep { $_->{impatient} } @transactions) > 0, 1, 'some are impatient');
is(scalar(grep { $_->{hurried} } @transactions) > 0, 1, 'some are in a hurry');
is(Chaos::Plan::transaction(7, 1, 1, big => 1)->{steps}[0]{length}, 8000, 'some hold megabytes');

# A node is gone from its fault to its end.
sub most_gone_at_once
{
	my ($most, %gone) = (0);
	foreach my $action (grep { defined $_->{node} } @_)
	{
		if ($action->{what} =~ /kill|stop|cut|slow|hang|silence|hold/) { $gone{ $action->{node} } = 1 unless $action->{what} eq 'box_cut'; }
		elsif ($action->{what} ne 'box_end') { delete $gone{ $action->{node} }; }
		$most = keys %gone if keys %gone > $most;
	}
	return $most;
}

# What is done to servers, networks, streams and PostgreSQL while a node hangs.
sub disturbances
{
	my @actions = @_;
	my @disturbances;
	foreach my $hang (grep { $_->{what} =~ /_hang$/ } @actions)
	{
		my ($end) = grep { $_->{at} > $hang->{at} && $_->{what} =~ /^(box_pass|server_continue)$/ && $_->{node} == $hang->{node} } @actions;
		push @disturbances, 'short' if $end->{at} - $hang->{at} < $Chaos::Plan::COMMIT_TIMEOUT + 1;
		push @disturbances, map { $_->{what} } grep { $_->{at} > $hang->{at} - 1 && $_->{at} < $end->{at} && $_ != $hang
			&& $_->{what} =~ /^(server|network|box|boxes|commits|stream|step|postgres)_/ } @actions;
	}
	return @disturbances;
}

# The checker

my $dir = PostgreSQL::Test::Utils::tempdir('logs');

# One committed transaction with a message in each mode, and what is stored of it; more is added to break a rule.
my @LOG = (
	'begin 1.1.0 ', 'call 1.1.0.0 sync', 'told 1.1.0.0 ok CHAOS_SYNC 1', 'call 1.1.0.1 sync', 'told 1.1.0.1 ok CHAOS_SYNC 2',
	'call 1.1.0.2 async', 'told 1.1.0.2 ok  1', 'call 1.1.0.3 held', 'told 1.1.0.3 ok  ', 'call 1.1.0.4 outbox',
	'told 1.1.0.4 ok  10', 'call 1.1.0.5 outbox', 'told 1.1.0.5 ok  11', 'end commit', 'done committed');
my @STORED = (
	[ 'CHAOS_SYNC', 1, 'chaos.sync.1', '1.1.0.0|1|x' ], [ 'CHAOS_SYNC', 2, 'chaos.sync.1', '1.1.0.1|0|' ],
	[ 'CHAOS_ASYNC', 1, 'chaos.async.1', '1.1.0.2|0|' ], [ 'CHAOS_HELD', 1, 'chaos.held.1', '1.1.0.3|0|' ],
	[ 'CHAOS_OUTBOX', 1, 'chaos.outbox.1', '1.1.0.4|0|' ], [ 'CHAOS_OUTBOX', 2, 'chaos.outbox.1', '1.1.0.5|0|' ]);
my @ATOMIC = ('begin 1.2.0 ', (map { ("call 1.2.0.$_ atomic", "told 1.2.0.$_ ok  ") } 0 .. 2), 'end commit');

# Returns the rules that are broken. log and stored are added to what is fine, or replace it.
sub broken
{
	my (%case) = @_;
	my $log = "$dir/log" . ++$times{log};
	append_to_file($log, join '', map { "0.0\t" . tr/ /\t/r . "\n" } @{ $case{only} // \@LOG }, @{ $case{log} // [] });
	my $run = Chaos::Checker->new;
	$run->read_log($log);
	$run->committed('1.1.0', @{ $case{committed} // [] });
	$run->waiting(@{ $case{waiting} // [] });
	$run->dead(@{ $case{dead} // [] });
	$run->stored(@$_) foreach @{ $case{all_stored} // \@STORED }, @{ $case{stored} // [] };
	return grep { my (undef, @violations) = $run->check($_); @violations } $run->rules;
}

sub breaks
{
	my ($rule, $name, %case) = @_;
	is_deeply([ broken(%case) ], $rule eq '' ? [] : [ grep { /$rule/ } Chaos::Checker->new->rules ], $name);
	return;
}

sub without { my ($message) = @_; return [ grep { $_->[3] !~ /^\Q$message\E\|/ } @STORED ]; }
sub atomic { my (@seqs) = @_; return [ map { [ 'CHAOS_ATOMIC', $seqs[$_], 'chaos.atomic.1', "1.2.0.$_|0|" ] } 0 .. $#seqs ]; }

breaks('', 'every promise is kept');

breaks('^what was told to be committed', 'told to be committed, and is not', log => [ 'begin 1.2.0 ', 'end commit', 'done committed' ]);
breaks('^what was told to be committed', 'told that it failed, and is committed',
	log => [ 'begin 1.2.0 ', 'end commit', 'done 58030 text detail' ], committed => ['1.2.0']);
breaks('^what was told to be committed', 'rolled back, and is committed', log => [ 'begin 1.2.0 ', 'end rollback', 'done lost' ], committed => ['1.2.0']);
breaks('', 'a COMMIT whose end nobody was told', log => [ 'begin 1.2.0 ', 'end commit', 'done lost' ], committed => ['1.2.0']);
breaks('', 'and one that was not committed', log => [ 'begin 1.2.0 ', 'end commit', 'done lost' ]);

breaks('^every critical', 'an async message is not stored', all_stored => without('1.1.0.2'));
breaks('^every critical', 'a held message is not stored', all_stored => without('1.1.0.3'));
breaks('', 'one of a savepoint that was rolled back', all_stored => without('1.1.0.2'), only => [ @LOG[ 0 .. 6 ], 'undone 1.1.0.2', @LOG[ 7 .. $#LOG ] ]);
breaks('', 'one of a transaction that failed', log => [ 'begin 1.2.0 ', 'call 1.2.0.0 async', 'told 1.2.0.0 ok  1', 'end commit', 'done 58030 text detail' ]);

breaks('^every PubAck', 'acknowledged, and not stored', all_stored => without('1.1.0.1'));
breaks('^every PubAck', 'acknowledged, and stored elsewhere',
	all_stored => [ @STORED[ 0, 2 .. $#STORED ], [ 'CHAOS_SYNC', 3, 'chaos.sync.1', '1.1.0.1|0|' ] ]);
breaks('^every PubAck', 'flushed, and not stored', log => [ 'begin 1.2.0 ', 'call 1.2.0.0 async', 'told 1.2.0.0 ok  1', 'flushed', 'end rollback', 'done rolled' ]);
breaks('^every PubAck', 'of a future, and not stored',
	log => [ 'begin 1.2.0 ', 'call 1.2.0.0 async', 'told 1.2.0.0 ok  1', 'told 1.2.0.0 ok CHAOS_ASYNC 9', 'end rollback', 'done rolled' ]);

my @held = ([ 'CHAOS_HELD', 2, 'chaos.held.1', '1.2.0.0|0|' ]);
breaks('^no message that was held', 'held, rolled back, and stored', stored => \@held,
	log => [ 'begin 1.2.0 ', 'call 1.2.0.0 held', 'told 1.2.0.0 ok  ', 'end rollback', 'done rolled' ]);
breaks('^no message that was held', 'held, in a savepoint rolled back, and stored', stored => \@held,
	log => [ 'begin 1.2.0 ', 'call 1.2.0.0 held', 'told 1.2.0.0 ok  ', 'undone 1.2.0.0', 'end commit', 'done committed' ], committed => ['1.2.0']);
breaks('', 'held, and stored by a COMMIT that failed', stored => \@held,
	log => [ 'begin 1.2.0 ', 'call 1.2.0.0 held', 'told 1.2.0.0 ok  ', 'end commit', 'done lost' ]);

my @outbox = ([ 'CHAOS_OUTBOX', 3, 'chaos.outbox.1', '1.2.0.0|0|' ]);
my @call_outbox = ('begin 1.2.0 ', 'call 1.2.0.0 outbox', 'told 1.2.0.0 ok  12', 'end commit');
breaks('^no message for the outbox', 'not committed, and published', stored => \@outbox, log => [ @call_outbox, 'done lost' ]);
breaks('', 'committed, without anybody being told', stored => \@outbox, log => [ @call_outbox, 'done lost' ], committed => ['1.2.0']);

breaks('^every committed message of the outbox', 'committed, and not published', all_stored => without('1.1.0.4'));
breaks('^every committed message of the outbox', 'still waiting', waiting => ['1.1.0.4|0|']);
breaks('^every committed message of the outbox', 'dead', dead => ['1.1.0.4|0|']);

breaks('^no message is stored twice', 'stored twice', stored => [ [ 'CHAOS_ASYNC', 2, 'chaos.async.1', '1.1.0.2|0|' ] ]);

breaks('^what one session published synchronously', 'the other way round',
	only => [ map { s/CHAOS_SYNC 1/CHAOS_SYNC 3/r } @LOG ],
	all_stored => [ [ 'CHAOS_SYNC', 3, 'chaos.sync.1', '1.1.0.0|1|x' ], @STORED[ 1 .. $#STORED ] ]);
breaks('^what the relay published', 'the other way round', all_stored => [ @STORED[ 0 .. 3, 5, 4 ] ]);

breaks('', 'a whole batch', log => [ @ATOMIC, 'done committed' ], committed => ['1.2.0'], stored => atomic(5, 6, 7));
breaks('', 'none of it, and not committed', log => [ @ATOMIC, 'done lost' ]);
breaks('', 'all of it, and not committed', log => [ @ATOMIC, 'done lost' ], stored => atomic(5, 6, 7));
breaks('^an atomic batch', 'a part of it, and not committed', log => [ @ATOMIC, 'done lost' ], stored => atomic(5, 6));
breaks('^an atomic batch', 'something in between', log => [ @ATOMIC, 'done committed' ], committed => ['1.2.0'], stored => atomic(5, 6, 8));
breaks('^an atomic batch', 'in another order', log => [ @ATOMIC, 'done committed' ], committed => ['1.2.0'], stored => atomic(6, 5, 7));

my @sync = ([ 'CHAOS_SYNC', 3, 'chaos.sync.1', '1.2.0.0|0|' ]);
my @refused = ('begin 1.2.0 ', 'call 1.2.0.0 sync', 'told 1.2.0.0 53400 full ', 'end rollback', 'done rolled');
breaks('^a message that could not be published', 'refused, and stored', stored => \@sync, log => \@refused);
breaks('', 'not acknowledged in time, and stored', stored => \@sync, log => [ map { s/53400/58030/r } @refused ]);
breaks('^a message that could not be published', 'not sent, and stored', stored => \@sync, log => [ map { s/53400/58000/r } @refused ]);

# Two messages of one COMMIT, the text and the detail that it is told, and those that are stored.
sub told_by_commit
{
	my ($rule, $name, $mode, $sqlstate, $text, $detail, @stored) = @_;
	my $log = "$dir/log" . ++$times{log};
	my @lines = ('begin 1.2.0 ', (map { ("call 1.2.0.$_ $mode", "told 1.2.0.$_ ok  ") } 0, 1), 'end commit');
	append_to_file($log, join '', map { "0.0\t" . tr/ /\t/r . "\n" } @lines);
	append_to_file($log, "0.0\tdone\t$sqlstate\tERROR: could not publish $text\t$detail\n");
	my $run = Chaos::Checker->new;
	$run->read_log($log);
	$run->stored("CHAOS_\U$mode", $_ + 1, "chaos.$mode.1", "1.2.0.$_|0|") foreach @stored;
	is_deeply([ grep { my (undef, @violations) = $run->check($_); @violations } $run->rules ], [ grep { $rule && /$rule/ } $run->rules ], $name);
	return;
}

my $COMMIT = '^what COMMIT tells';
my $full = 'maximum messages exceeded (JetStream error 10077)';
my $nobody = 'no stream takes this subject';
my $nobody_now = "$nobody; it was sent before, and may be stored";
my $counted = sub { "Of the transaction's messages: $_[0]." };

foreach my $case ([ '53400', $full ], [ '42704', $nobody ])
{
	my ($sqlstate, $reason) = @$case;
	my @one = ('held', $sqlstate, "to \"a\": $reason", $counted->('1 stored, 1 failed, 0 not sent'));
	told_by_commit('', "$sqlstate: one stored, one not", @one, 0);
	told_by_commit($COMMIT, 'told one stored, and none is', @one);
	told_by_commit($COMMIT, 'told one failed, and it is stored', @one, 0, 1);
	told_by_commit('', 'told one failed of one', @one[ 0 .. 2 ], 'HINT: x');
	told_by_commit($COMMIT, 'told one failed of one, and it is stored', @one[ 0 .. 2 ], 'HINT: x', 0);
}
told_by_commit('', 'it may be stored', 'held', '58030', 'to "a": no acknowledgment arrived', $counted->('1 stored, 1 failed, 0 not sent'), 0, 1);
told_by_commit('', 'it may be stored: not counted', 'held', '58030', "to \"a\": $nobody_now", '', 0);
told_by_commit($COMMIT, 'told one not sent, and it is stored', 'held', '58030', 'to "a": x', $counted->('0 stored, 1 failed, 1 not sent'), 0, 1);

my @several = ('held', '42704', "2 messages of this transaction: $nobody");
told_by_commit('', 'told both failed', @several, qq("a": $nobody. "a": $full.));
told_by_commit($COMMIT, 'told both failed, and one is stored', @several, qq("a": $nobody. "a": $full.), 0);
told_by_commit('', 'told one of both failed, and of the other that it may be stored', @several, qq("a": $nobody. "a": $nobody_now.), 0);
told_by_commit($COMMIT, 'and both are stored', @several, qq("a": $nobody. "a": $nobody_now.), 0, 1);

my @batch = ('atomic', '53400', "the transaction's messages as one batch: $full", '');
told_by_commit('', 'told that a batch failed', @batch);
told_by_commit($COMMIT, 'told that a batch failed, and it is stored', @batch, 0, 1);
told_by_commit('', 'told that a batch may be stored', 'atomic', '58030', @batch[ 2, 3 ], 0, 1);

# Of one client with times: begin and end of a COMMIT of held messages of 10,000 bytes, and what a box and the stream see.
sub on_its_way
{
	my ($rule, $name, %case) = @_;
	my $log = "$dir/log" . ++$times{log};
	my @calls = map { ("1.0 call 1.2.0.$_ held 10000", "1.0 told 1.2.0.$_ ok  ") } 0 .. 19;
	my $end = $case{end} // [ '2.0 end commit', '3.0 done 57014 text detail' ];
	write_lines($log, '1.0 begin 1.2.0  ', @calls, @{ $case{undone} // [] }, @$end, @{ $case{more} // [] });
	write_lines("$log.box", @{ $case{seen} // [] });
	my $run = Chaos::Checker->new;
	$run->read_log($log);
	$run->read_boxes("$log.box");
	$run->committed('1.2.0') if "@$end" =~ /committed/;
	$run->stored('CHAOS_HELD', $_ + 1, 'chaos.held.1', "1.2.0.$_|1|x", $case{stored_at} // 2.5) foreach @{ $case{stored} // [] };
	is_deeply([ grep { my (undef, @violations) = $run->check($_); @violations } $run->rules ], [ grep { $rule && /$rule/ } $run->rules ], $name);
	return;
}

# With a tab for each blank, and a blank for each tilde.
sub write_lines { my ($file, @lines) = @_; return append_to_file($file, join '', map { tr/ ~/\t /r . "\n" } @lines); }
sub seen { my ($time, @messages) = @_; return map { "$time 1.2.0.$_" } @messages; }

my $ON_ITS_WAY = '^what is held for a COMMIT is on its way';
on_its_way('', 'sent during COMMIT', seen => [ seen(2.1, 0 .. 19) ], stored => [ 0 .. 19 ]);
on_its_way('', 'and stored later, by a server that had it', seen => [ seen(2.1, 0 .. 19) ], stored => [ 0 .. 19 ], stored_at => 9);
on_its_way('', 'a moment after its error', seen => [ seen(3.5, 0 .. 19) ]);
on_its_way('', 'what was on its way, in the kernel of a server that stands', seen => [ seen(2.1, 0 .. 16), seen(9, 17 .. 19) ]);
on_its_way($ON_ITS_WAY, 'more than that', seen => [ seen(2.1, 0 .. 15), seen(9, 16 .. 19) ]);
on_its_way($ON_ITS_WAY, 'stored much later, seen by nobody', stored => [ 0 .. 19 ], stored_at => 9);
on_its_way($ON_ITS_WAY, 'sent before COMMIT', seen => [ seen(1.5, 3) ]);
on_its_way($ON_ITS_WAY, 'sent though it was rolled back', seen => [ seen(2.1, 3) ], end => [ '2.0 end rollback', '3.0 done rolled' ]);
on_its_way($ON_ITS_WAY, 'sent though its savepoint was', seen => [ seen(2.1, 3) ], undone => ['1.5 undone 1.2.0.3']);
on_its_way($ON_ITS_WAY, 'again and again behind a COMMIT that did succeed', seen => [ seen(2.1, 0 .. 19), seen(9, 0 .. 19) ],
	end => [ '2.0 end commit', '3.0 done committed' ], stored => [ 0 .. 19 ]);
my @lost = ('2.0 end commit', '3.0 done lost 08006 gone');
on_its_way('', 'of a session that was killed', seen => [ seen(9, 0 .. 19) ], end => \@lost);
on_its_way($ON_ITS_WAY, 'of one that was ended', seen => [ seen(9, 0 .. 19) ],
	end => [ $lost[0], $lost[1] =~ s/08006 gone/57P01 FATAL:~terminating~connection~due~to~administrator~command/r ]);
my @again = ('5.0 begin 1.2.1  ', '5.0 call 1.2.0.3 held 10000', '5.0 told 1.2.0.3 ok  ', '6.0 end commit');
on_its_way('', 'sent when it was tried again', more => \@again, seen => [ seen(2.1, 0 .. 19), seen(6.5, 3) ]);
on_its_way($ON_ITS_WAY, 'of the first time, when it was tried again', more => \@again, seen => [ seen(6.5, 0 .. 19) ]);

# One client, and its statement from 10.0 until 15.0; the probes of two nodes and what happened to these.
sub ridden_out
{
	my ($rule, $name, %case) = @_;
	my $log = "$dir/log" . ++$times{log};
	my ($told, $begin, $bytes, $from) = ($case{told} // '58030', $case{begin} // '', $case{bytes} // 100, $case{from} // '10.0');
	my $mode = $case{mode} // 'sync';
	write_lines($log, '8.0 begin 1.1.0  ', '8.0 call 1.1.0.0 uncritical 10', "9.0 begin 1.2.0 $begin", "9.0 call 1.2.0.0 $mode $bytes", "15.0 waited $from $told " . ($case{text} // 'text'), "15.0 told 1.2.0.0 58030 text", '16.0 end rollback', '16.0 done rolled');
	write_lines("$log.faults", @{ $case{faults} // [ '5.0 box_hang 1' ] });
	my $run = Chaos::Checker->new;
	$run->read_log($log);
	$run->read_faults("$log.faults");
	foreach my $node (1, 2)
	{
		my $well = $case{"node$node"} // sub { $node == 2 };
		write_lines("$log.probe$node", map { my $time = $_ / 4; ("$time sync " . ($well->($time) ? '0.01' : ''), "$time held 0.01") } grep { !$case{unprobed} || $_ < 50 } 4 .. 80);
		$run->read_probes($node, "$log.probe$node");
	}
	is_deeply([ grep { my (undef, @violations) = $run->check($_); @violations } $run->rules ], [ grep { $rule && /$rule/ } $run->rules ], $name);
	my ($checked) = $run->check(grep { /nothing fails for a server/ } $run->rules);
	is($checked, $case{checked} // ($rule ? 1 : 0), "$name: looked at") ;
	return;
}

my $RIDDEN_OUT = '^nothing fails for a server that hangs';
my $never = sub { 0 };
ridden_out($RIDDEN_OUT, 'a call that fails while another server is well');
ridden_out($RIDDEN_OUT, 'with 58000', told => '58000');
ridden_out('', 'one that does not', told => 'ok', checked => 1);
ridden_out('', 'one that is refused', told => '53400');
ridden_out('', 'none is well', node2 => $never);
ridden_out('', 'the other one is well for a part of the time', node2 => sub { $_[0] < 12 || $_[0] > 12.5 });
ridden_out($RIDDEN_OUT, 'and for all of it', node2 => sub { $_[0] < 9 || $_[0] > 9.5 });
ridden_out('', 'for another stream', node2 => $never, node1 => $never);
ridden_out('', 'nobody has looked', unprobed => 1);
ridden_out($RIDDEN_OUT, 'of another stream, which is all that it needs', mode => 'held', node2 => $never);
ridden_out('', 'what an earlier transaction has published to such a stream', text => '1~message~is~not~acknowledged~in~time');
ridden_out('', 'of the relay', mode => 'outbox');
ridden_out('', 'without ids', begin => 'anonymous ');
ridden_out('', 'with a short timeout', begin => ' impatient');
ridden_out('', 'with too much for the time that is left', bytes => 1_000_000);
ridden_out($RIDDEN_OUT, 'the hang begins with it', faults => ['10.1 box_silence 1']);
ridden_out('', 'the hang begins later', faults => ['11.0 box_silence 1']);
ridden_out('', 'another one does', faults => [ '5.0 box_hang 1', '11.0 box_cut 2' ]);
ridden_out('', 'two at once', faults => [ '9.9 box_hang 1', '10.1 server_stop 2' ]);
ridden_out('', 'one ends', faults => [ '5.0 server_stop 1', '14.0 server_continue 1' ]);
ridden_out('', 'a leader steps down', faults => ['9.8 step_down ']);
ridden_out($RIDDEN_OUT, 'something happens to PostgreSQL', faults => [ '5.0 box_hang 1', '11.0 backend_cancel ' ]);
ridden_out('', 'a network is slow', faults => ['5.0 network_slow 1']);
ridden_out($RIDDEN_OUT, 'and no longer', faults => [ '5.0 network_slow 1', '8.0 network_heal 1' ]);

breaks('^every error is', 'an internal error of a call', log => [ 'begin 1.2.0 ', 'call 1.2.0.0 held', 'told 1.2.0.0 XX000 bug ' ]);
breaks('^every error is', 'an internal error of COMMIT', log => [ 'begin 1.2.0 ', 'end commit', 'done XX000 bug detail' ]);

breaks('^nothing is stored that nobody', 'a message that nobody has published', stored => [ [ 'CHAOS_ASYNC', 2, 'chaos.async.1', '9.9.9|0|' ] ]);
breaks('^nothing is stored that nobody', 'cut off', all_stored => [ [ 'CHAOS_SYNC', 1, 'chaos.sync.1', '1.1.0.0|1|' ], @STORED[ 1 .. $#STORED ] ]);
breaks('^nothing is stored that nobody', 'under another subject',
	all_stored => [ @STORED[ 0 .. 2 ], [ 'CHAOS_HELD', 1, 'chaos.held.2', '1.1.0.3|0|' ], @STORED[ 4, 5 ] ]);

done_testing;
