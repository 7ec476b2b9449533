# The fault harness without faults: the same seed is the same plan, and the checker tells each promise that was broken from
# one that was kept.
use strict;
use warnings FATAL => 'all';

use JSON::PP;
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
is($times{calm_end}, $times{calm_begin}, 'every calm ends');
is($times{boxes_accept}, $times{boxes_refuse}, 'every outage ends');
ok($times{$_}, "the plan has $_") foreach qw(step_down backend_terminate backend_cancel backend_kill relay_terminate relay_cancel relay_kill
	postgres_crash postgres_kill postgres_restart box_cut box_end boxes_cut boxes_refuse stream_away stream_back calm_begin);
is_deeply([ disturbances(@plan) ], [], 'a hang is alone, and longer than every timeout');
is_deeply([ disturbances_between('calm_begin', 'calm_end', @plan) ], [], 'in a calm nothing happens but to sessions');
is_deeply([ disturbances_between('boxes_refuse', 'boxes_accept', @plan) ], [], 'nor in an outage');
is_deeply([ sort keys %{ { map { ($_->{stream} => 1) } grep { $_->{what} =~ /^stream_(away|back)$/ } @plan } } ], [ sort @Chaos::Plan::WAYWARD ],
	'streams go away that only the relay publishes to');
is(most_gone_at_once(@plan), 2, 'two of three nodes may be gone at once');
is_deeply([ map { $_->{what} => $_->{at} } grep { $_->{what} =~ /^(promote|old_primary_returns)$/ } Chaos::Plan::faults(7, 300, standby => 1) ],
	[ promote => 150, old_primary_returns => 154 ], 'a standby is promoted in the middle, and then its old primary comes back');

is_deeply(Chaos::Plan::transaction(7, 3, 20, atomic => 1), Chaos::Plan::transaction(7, 3, 20, atomic => 1),
	'the same seed is the same transaction');
my @transactions = map { Chaos::Plan::transaction(7, 1, $_, atomic => 1) } 1 .. 300;
my %modes = map { ($_->{mode} // $_->{what} => 1) } map { @{ $_->{steps} } } @transactions;
is(scalar(grep { $_->{retries} && !$_->{ids} } @transactions), 0, 'what is tried again has ids');
ok($modes{$_}, "some transaction has $_") foreach qw(sync async uncritical held atomic outbox change_on_commit change_async
	change_sync change_outbox wal gone change_wal kept_on_commit kept_outbox kept_wal late unheard noack large await flush futures savepoint rollback_to release break idle set_atomic);
is(scalar(grep { 1 < grep { ($_->{mode} // '') =~ /^kept_/ } @{ $_->{steps} } } @transactions), 0, 'none changes two rows that are kept');
is(scalar(grep { $_->{impatient} } @transactions) > 0, 1, 'some are impatient');
is(scalar(grep { $_->{hurried} } @transactions) > 0, 1, 'some are in a hurry');
is(Chaos::Plan::transaction(7, 1, 1, big => 1)->{steps}[0]{length}, 8000, 'some hold megabytes');
is(scalar(grep { $_->{mode} eq 'large' && $_->{length} <= $Chaos::Plan::MAX_PAYLOAD } grep { $_->{mode} } map { @{ $_->{steps} } } @transactions), 0,
	'some are larger than any server takes');
is(scalar(grep { $_->{mode} && $_->{mode} !~ /^(outbox|late|unheard|noack|gone|large)$/ } map { @{ Chaos::Plan::transaction(7, 9, $_)->{steps} } } 1 .. 100), 0,
	'those of another database are for the outbox');
is_deeply([ map { $_->{mode} } @{ Chaos::Plan::transaction(7, $Chaos::Plan::CANARY, 5)->{steps} } ], [ 'outbox', 'wal' ], 'the canary writes one in each way');

is_deeply(Chaos::Plan::edits(7, 1, 20), Chaos::Plan::edits(7, 1, 20), 'the same seed is the same edits');
my @edits = map { Chaos::Plan::edits(7, 1, $_) } 1 .. 300;
my %edits = map { ($_->{what} => 1) } map { @{ $_->{steps} } } @edits;
ok($edits{$_}, "some are $_") foreach qw(edit edit_same_id delete retry time lock edit_dead retry_all);
ok((grep { $_->{hold} > 1 } @edits) && (grep { $_->{end} eq 'rollback' } @edits), 'some hold locks for long, some are taken back');

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

# What is done, but to sessions.
sub disturbances_between
{
	my ($begin, $end, @actions) = @_;
	my @disturbances;
	my $is_between = 0;
	foreach my $action (@actions)
	{
		if ($action->{what} =~ /^(\Q$begin\E|\Q$end\E)$/) { $is_between = $1 eq $begin; }
		elsif ($is_between && $action->{what} !~ /^backend_(terminate|cancel)$/) { push @disturbances, $action->{what}; }
	}
	return @disturbances;
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

# Returns the rules that are broken. log and stored are added to what is fine, or replace it. seen and edits have their times.
sub broken
{
	my (%case) = @_;
	my $log = "$dir/log" . ++$times{log};
	append_to_file($log, join '', map { "0.0\t" . tr/ /\t/r . "\n" } @{ $case{only} // \@LOG }, @{ $case{log} // [] });
	append_to_file($log, join '', map { tr/ /\t/r . "\n" } @{ $case{and_then} // [] });
	append_to_file("$log.$_", join '', map { tr/ /\t/r . "\n" } @{ $case{$_} // [] }) foreach qw(edits seen);
	my $run = Chaos::Checker->new(wal_began => $case{wal_began});
	$run->read_log($log);
	$run->read_edits("$log.edits");
	$run->read_boxes("$log.seen");
	$run->committed_elsewhere(@{ $case{elsewhere} // [] });
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

my $GIVEN_UP = '^what no server takes';
my @large = (log => [ 'begin 1.2.0 ', 'call 1.2.0.0 large', 'told 1.2.0.0 ok  12', 'end commit', 'done committed' ], committed => ['1.2.0']);
breaks($GIVEN_UP, 'dead, though it is taken', dead => ['1.1.0.4|0|']);
breaks('', 'dead, as no server takes it', @large, dead => ['1.2.0.0|9|']);
breaks($GIVEN_UP, 'not dead, though no server takes it', @large);
breaks($GIVEN_UP, 'dead, and stored', @large, dead => ['1.2.0.0|9|'], stored => [ [ 'CHAOS_OUTBOX', 3, 'chaos.outbox.1', '1.2.0.0|0|' ] ]);
breaks('', 'too large and deleted', @large, edits => [ '1.0 begin e', '1.0 delete e 1.2.0.0', '1.0 end commit', '1.5 done committed' ], committed => [ '1.2.0', 'e' ]);

# The second message of the outbox, edited by two transactions, of which the first one is committed if not told otherwise; and what is
# stored of it, in the outbox's stream or another one.
sub edited
{
	my ($rule, $name, %case) = @_;
	my ($subject, $new_id) = ($case{subject} // 'chaos.outbox.1', $case{new_id} ? 'new_id' : '');
	my @first = $case{deleted} ? '1.0 delete e1 1.1.0.5' : "1.0 edit e1 1.1.0.5 1.1.0.5~e1_1 3 $subject $new_id";
	my $seq = 1;
	my @stored = map { /^([A-Z]+):(.*)/ ? [ "CHAOS_$1", ++$seq, "chaos.\L$1\E.1", $2 ] : [ 'CHAOS_OUTBOX', ++$seq, 'chaos.outbox.1', $_ ] } @{ $case{as} };
	breaks($rule, $name, all_stored => [ @{ $case{before} // without('1.1.0.5') }, @stored ], committed => $case{committed} // ['e1'], elsewhere => $case{elsewhere}, dead => $case{dead}, seen => $case{seen},
		edits => [ '1.0 begin e1', @first, $case{touched} ? "1.0 touch e1 $case{touched} 1.1.0.5" : (), '1.0 end commit', '2.0 done committed', '3.0 begin e2',
			'3.0 edit e2 ' . ($case{found} // '1.1.0.5~e1_1') . ' 1.1.0.5~e2_1 0 chaos.outbox.1 ', '3.0 end commit', '4.0 done ' . ($case{done} // 'lost') ]);
	return;
}

my ($EDITED, $TWICE, $PHANTOM) = ('^a message of the outbox that was edited', '^no message is stored twice', '^no message for the outbox');
my ($old, $new, $newer) = ('1.1.0.5|0|', '1.1.0.5~e1_1|3|xxx', '1.1.0.5~e2_1|0|');
edited('', 'edited, and stored so', as => [$new]);
edited('', 'edited under its id, and stored as it was', as => [$old]);
edited($EDITED, 'edited, and not stored', as => []);
edited($TWICE, 'edited under its id, and stored twice', as => [ $old, $new ]);
edited('', 'edited under another id, and stored as it is', new_id => 1, as => [$new]);
edited('', 'and as it was, too', new_id => 1, as => [ $old, $new ]);
edited($EDITED, 'edited under another id, and stored as it was only', new_id => 1, as => [$old]);
edited($EDITED, 'edited twice, and stored as it was before', new_id => 1, as => [$old], committed => [ 'e1', 'e2' ]);
edited('', 'edited twice, and stored as it was between the two, under the same id', new_id => 1, as => [$new], committed => [ 'e1', 'e2' ]);
edited($PHANTOM, 'stored as by an edit that was not committed', as => [$old], before => [ @{ without('1.1.0.5') }, [ 'CHAOS_OUTBOX', 9, 'chaos.outbox.1', $newer ] ], committed => []);
edited('', 'stored as by one that was only where an old primary went on', new_id => 1, as => [ $old, $new ], committed => [], elsewhere => ['e1']);
edited($EDITED, 'an edit is lost', found => '1.1.0.5', done => 'committed', as => [$newer], committed => [ 'e1', 'e2' ]);
edited('', 'deleted, and not stored', deleted => 1, as => []);
edited('', 'deleted, and stored', deleted => 1, as => [$old]);
edited($EDITED, 'deleted, and found', deleted => 1, found => '1.1.0.5', as => [], committed => [ 'e1', 'e2' ]);
edited($GIVEN_UP, 'edited, and dead', as => [$new], dead => ['1.1.0.5~e1_1|3|']);
edited('', 'moved, and stored there', subject => 'chaos.late.1', as => ["LATE:$new"]);
edited('', 'and, under the same id, where it was', subject => 'chaos.late.1', as => [ "LATE:$new", $old ]);
edited('^nothing is stored that nobody', 'moved, and stored under its old subject', subject => 'chaos.late.1', as => [$new]);
edited('^nothing is stored that nobody', 'edited, and cut off', as => ['1.1.0.5~e1_1|2|xx']);
edited('^nothing is stored that nobody', 'edited by nobody', new_id => 1, as => [ $new, '1.1.0.5~e9_9|0|' ]);

my $SENT_LATE = '^what was edited or deleted is not sent';
edited('', 'sent as it was soon after', new_id => 1, as => [$new], seen => ['23.9 1.1.0.5']);
edited($SENT_LATE, 'sent as it was much later', new_id => 1, as => [$new], seen => ['24.1 1.1.0.5']);
edited($SENT_LATE, 'sent much later than it was deleted', deleted => 1, as => [], seen => ['24.1 1.1.0.5']);
edited('', 'by an old primary, perhaps', new_id => 1, as => [$new], seen => ['24.1 1.1.0.5'], elsewhere => ['e1']);

edited('^what the relay published', 'edited, and in another place', before => [ @STORED[ 0 .. 3 ] ], as => [ $new, '1.1.0.4|0|' ]);
edited('', 'in the place that it has for an old primary', before => [ @STORED[ 0 .. 3 ] ], as => [ $new, '1.1.0.4|0|' ], elsewhere => ['e1']);
edited('', 'moved from another place', subject => 'chaos.outbox.2', before => [ @STORED[ 0 .. 3 ], [ 'CHAOS_OUTBOX', 2, 'chaos.outbox.2', $new ] ], as => ['1.1.0.4|0|']);
edited('', 'in another place, as its time was taken away', before => [ @STORED[ 0 .. 3 ] ], as => [ $new, '1.1.0.4|0|' ], touched => 'no_time');
edited('^what the relay published', 'but not for another time', before => [ @STORED[ 0 .. 3 ] ], as => [ $new, '1.1.0.4|0|' ], touched => 'time');
edited('', 'on its way in its place, and once more as it is', new_id => 1, before => [ @STORED[ 0 .. 3 ] ], as => [ '1.1.0.4|0|', $old, $new ]);

my @late = ('begin 1.2.0 ', (map { ("call 1.2.0.$_ late", "told 1.2.0.$_ ok  2$_") } 0, 1), 'end commit', 'done committed');
breaks('', 'what waited for a stream', log => \@late, committed => ['1.2.0'], stored => [ map { [ 'CHAOS_LATE', $_, 'chaos.late.1', "1.2.0.$_|0|" ] } 0, 1 ]);
breaks('^what the relay published', 'the other way round', log => \@late, committed => ['1.2.0'], stored => [ map { [ 'CHAOS_LATE', $_, 'chaos.late.1', "1.2.0.$_|0|" ] } 1, 0 ]);

# The canary's message is committed at 20.0, in a calm if not told otherwise, and stored so many seconds later.
sub healthy
{
	my ($rule, $name, $seconds, @faults) = @_;
	my $slowest = @faults && $faults[0] =~ /^(slow|gone)$/ ? { slow => '0.2', gone => '' }->{ shift @faults } : '0.01';
	my $log = "$dir/log" . ++$times{log};
	my $waiting = @faults && $faults[0] =~ /^\d+$/ ? shift @faults : 0;
	write_lines($log, map { ("19.9 begin 11.$_.0  ", "19.9 call 11.$_.0.0 outbox 5", "19.9 told 11.$_.0.0 ok  $_", '19.9 end commit', '19.9 done committed') } 6 .. 5 + $waiting);
	write_lines($log, '20.0 begin 11.5.0  ', '20.0 call 11.5.0.0 outbox 5', '20.0 told 11.5.0.0 ok  50', '20.0 end commit', '20.0 done committed');
	write_lines("$log.faults", @faults ? @faults : ('10.0 calm_begin ', '15.0 backend_cancel ', '24.0 calm_end '));
	my $run = Chaos::Checker->new(canary => 11);
	$run->read_log($log);
	$run->read_faults("$log.faults");
	$run->committed('11.5.0', map { "11.$_.0" } 6 .. 5 + $waiting);
	$run->stored('CHAOS_OUTBOX', $_, 'chaos.outbox.11', "11.$_.0.0|0|", 20.5) foreach 6 .. 5 + $waiting;
	foreach my $node (1, 2)
	{
		write_lines("$log.probe$node", map { ($_ / 4) . ' outbox ' . ($node == 2 && $_ == 84 ? $slowest : '0.01') } 40 .. 100);
		$run->read_probes($node, "$log.probe$node");
	}
	$run->stored('CHAOS_OUTBOX', 1, 'chaos.outbox.11', '11.5.0.0|0|', 20 + $seconds);
	is_deeply([ grep { my (undef, @violations) = $run->check($_); @violations } $run->rules ], [ grep { $rule && /$rule/ } $run->rules ], $name);
	return;
}

my $HEALTHY = '^messages of the outbox go on';
healthy('', 'soon, in a calm', 1.9);
healthy($HEALTHY, 'late, in a calm', 2.3);
healthy('', 'late, behind others', 2.3, 5);
healthy($HEALTHY, 'later than that', 2.7, 5);
healthy('', 'late, as a calm has just begun', 2.3, '14.5 calm_begin ', '24.0 calm_end ');
healthy('', 'late, as a calm is about to end', 2.3, '10.0 calm_begin ', '21.5 calm_end ');
healthy('', 'late, as the relay has ended', 2.3, '10.0 calm_begin ', '15.0 relay_terminate ', '24.0 calm_end ');
healthy('', 'late, without a calm', 2.3, '10.0 server_kill 1');
healthy('', 'late, as a node is slow', 3.9, 'slow', '10.0 calm_begin ', '24.5 calm_end ');
healthy($HEALTHY, 'later than that', 4.1, 'slow', '10.0 calm_begin ', '24.5 calm_end ');
healthy('', 'late, as a node does not answer', 9.9, 'gone');

# What goes through the WAL
my @through_wal = (log => [ 'begin 1.2.0 ', 'call 1.2.0.0 wal', 'told 1.2.0.0 ok  ', 'call 1.2.0.1 change_wal', 'told 1.2.0.1 ok  ', 'end commit', 'done committed' ],
	committed => ['1.2.0']);
my @from_wal = map { [ 'CHAOS_WAL', $_ + 1, 'chaos.wal.1', "1.2.0.$_|0|" ] } 0, 1;
my $ORDER_WAL = '^what was published from the WAL';
breaks('', 'published from the WAL', @through_wal, stored => \@from_wal);
breaks('^every committed message of the outbox', 'a message in the WAL is not', @through_wal, stored => [ $from_wal[1] ]);
breaks('^every committed message of the outbox', 'a change in the WAL is not', @through_wal, stored => [ $from_wal[0] ]);
breaks('', 'it went with its primary', @through_wal, wal_began => 1);
breaks('', 'and its row was there when it was tried again', committed => [ '1.2.0', '1.2.1' ], wal_began => 1,
	log => [ @{ $through_wal[1] }[ 0, 3, 4, 5 ], 'done lost', 'begin 1.2.1 ', @{ $through_wal[1] }[ 3, 4 ] ], and_then => [ '2.0 end commit', '2.1 done committed' ]);
breaks('^every committed message of the outbox', 'not later, when the WAL is published again', @through_wal, wal_began => -1);
breaks('^no message is stored twice', 'published from the WAL twice', @through_wal, stored => [ @from_wal, [ 'CHAOS_WAL', 3, 'chaos.wal.1', '1.2.0.1|0|' ] ]);
breaks('^no message for the outbox', 'rolled back, and published from the WAL', @through_wal, committed => [],
	log => [ @{ $through_wal[1] }[ 0 .. 4 ], 'end rollback', 'done rolled' ], stored => \@from_wal);
breaks('^no message for the outbox', 'taken back to a savepoint, and published from the WAL', @through_wal,
	log => [ @{ $through_wal[1] }[ 0 .. 4 ], 'undone 1.2.0.1', @{ $through_wal[1] }[ 5, 6 ] ], stored => \@from_wal);
breaks('^no message for the outbox', 'committed nowhere but where a failover took it back', @through_wal, committed => [], elsewhere => ['1.2.0'],
	log => [ @{ $through_wal[1] }[ 0 .. 5 ], 'done lost' ], stored => \@from_wal);
breaks($ORDER_WAL, 'not in the order of its transaction', @through_wal, stored => [ map { [ 'CHAOS_WAL', $_, 'chaos.wal.1', '1.2.0.' . (2 - $_) . '|0|' ] } 1, 2 ]);
breaks('^every error is', 'there is no slot', log => [ 'begin 1.2.0 ', 'call 1.2.0.0 wal', 'told 1.2.0.0 55000 text ' ]);
breaks('', 'nor has a new primary one at first', wal_began => 1, log => [ 'begin 1.2.0 ', 'call 1.2.0.0 wal', 'told 1.2.0.0 55000 text ' ]);

# Two clients with a message each: when the second one sends its COMMIT, and what it is told; the first one is told at 3.0. The order is of the clients.
sub in_wal_order
{
	my ($rule, $name, $end_at, $done, @order) = @_;
	my $log = "$dir/log" . ++$times{log};
	my $run = Chaos::Checker->new(strict => $order[0]);
	shift @order unless $order[0];
	my %ends = (1 => [ '2.0 end commit', '3.0 done committed' ], 5 => [ "$end_at end commit", "9.0 done $done" ]);
	foreach my $client (1, 5)
	{
		write_lines("$log.$client", "1.0 begin $client.2.0  ", "1.0 call $client.2.0.0 wal 5", "1.0 told $client.2.0.0 ok  ", @{ $ends{$client} });
		$run->read_log("$log.$client");
		$run->committed("$client.2.0");
	}
	my $seq;
	$run->stored('CHAOS_WAL', ++$seq, 'chaos.wal.1', "$_.2.0.0|0|", 5) foreach @order;
	is_deeply([ grep { my (undef, @violations) = $run->check($_); @violations } $run->rules ], [ grep { $rule && /$rule/ } $run->rules ], $name);
	return;
}

in_wal_order('', 'in the order of the commits', '4.0', 'committed', 1, 5);
in_wal_order($ORDER_WAL, 'not in the order of the commits', '4.0', 'committed', 5, 1);
in_wal_order('', 'which is not known of two at a time', '2.5', 'committed', 5, 1);
in_wal_order($ORDER_WAL, 'though the later one was told of none', '4.0', 'lost', 5, 1);
in_wal_order('', 'where no order is promised', '4.0', 'committed', 0, 5, 1);

# What is written, 100 bytes a second or more, and up to when it is confirmed: a function of the time.
sub let_go
{
	my ($rule, $name, $confirmed, %case) = @_;
	my $log = "$dir/log" . ++$times{log};
	my $rate = $case{rate} // 100;
	my $run = Chaos::Checker->new;
	write_lines("$log.wal", map { my $time = $_ / 2; join ' ', $time, 'postgres', $rate * $time, $rate * $confirmed->($time) } 10 .. 80);
	write_lines("$log.faults", @{ $case{faults} // [ '10.0 boxes_refuse ', '24.0 boxes_accept ' ] });
	$run->read_wal("$log.wal");
	$run->read_faults("$log.faults");
	is_deeply([ grep { my (undef, @violations) = $run->check($_); @violations } $run->rules ], [ grep { $rule && /$rule/ } $run->rules ], $name);
	return;
}

my $LET_GO = '^WAL is kept';
let_go('', 'all is confirmed at once', sub { $_[0] });
let_go('', 'WAL of an outage is let go', sub { $_[0] < 10 ? $_[0] : $_[0] < 18 ? 10 : $_[0] - 1 });
let_go($LET_GO, 'and is not', sub { $_[0] < 10 ? $_[0] : $_[0] < 24 ? 10 : $_[0] });
let_go($LET_GO, 'some of it is', sub { $_[0] < 10 ? $_[0] : $_[0] < 16 ? 10 : $_[0] < 24 ? 16 : $_[0] });
let_go('', 'the relay is killed', sub { $_[0] < 10 ? $_[0] : $_[0] < 24 ? 10 : $_[0] }, faults => [ '10.0 boxes_refuse ', '17.0 relay_kill ', '24.0 boxes_accept ' ]);
let_go('', 'without an outage, little may wait', sub { $_[0] < 10 ? $_[0] : 10 }, faults => []);
let_go($LET_GO, 'much may not', sub { $_[0] < 10 ? $_[0] : 10 }, faults => [], rate => $Chaos::Plan::DIVERT_BYTES / 10);

# A row of which two versions were committed, at 11.0 and at 21.0, and one was not; what the stream has of it, each an operation, a version, whose it is
# and when it was stored; calls that have succeeded at 6.0 and 32.0, if not told otherwise.
my @ROWS = ('read 0 0 5.0', 'update 1 1 10.5', 'update 2 2 20.5', 'read 2 2 31.0');

sub rows
{
	my ($rule, $name, $messages, %case) = @_;
	my $log = "$dir/log" . ++$times{log};
	my $delivery = $case{delivery} // 'wal';
	my $end = $case{end} // 'rollback';
	write_lines($log, map { ("${_}0.0 begin 1.$_.0  ", "${_}0.0 call 1.$_.0.0 kept_$delivery 10", "${_}0.0 told 1.$_.0.0 ok  ", $_ < 3 ? ("${_}0.2 end commit", "${_}1.0 done committed")
		: ("${_}0.2 end $end", "${_}1.0 done " . ($end eq 'commit' ? '58030 text detail' : 'rolled'))) } 1 .. 3);
	write_lines("$log.reader", map { s/DELIVERY/$delivery/r } @{ $case{calls} // [ '4.0 call DELIVERY', '6.0 told DELIVERY ok', '30.0 call DELIVERY', '32.0 told DELIVERY ok' ] });
	my $run = Chaos::Checker->new(strict => $case{strict} // 1, wal_began => $case{wal_began});
	$run->read_log($log);
	$run->read_reader("$log.reader");
	$run->committed('1.1.0', '1.2.0');
	$run->kept_row($delivery, 1, $case{version} // 2);
	my $seq;
	foreach my $message (map { [ split / / ] } @$messages)
	{
		my ($op, $version, $by, $time) = @$message;
		my %new = (key => 1, version => $version, $by ? (attempt => "1.$by.0", message => "1.$by.0.0") : ());
		$run->kept(++$seq, "chaos.kept.$delivery.1", encode_json({ op => $op, new => \%new }), $time);
	}
	is_deeply([ grep { my (undef, @violations) = $run->check($_); @violations } $run->rules ], [ grep { $rule && /$rule/ } $run->rules ], $name);
	return;
}

my ($READ, $BEHIND, $LAST) = ('^each row is in the stream once more', '^no row is published behind', '^what the stream has last');
my @BEHIND = (@ROWS[ 0 .. 2 ], 'read 1 1 25.0', $ROWS[3]);
my @failed = (calls => [ '4.0 call DELIVERY', '6.0 told DELIVERY ok', '15.0 call DELIVERY', '18.0 told DELIVERY 58030 text', '18.2 call DELIVERY', '32.0 told DELIVERY ok' ]);
rows('', "rows are read: $_", \@ROWS, delivery => $_) foreach qw(on_commit outbox wal);
rows($READ, 'a row is not read', [ @ROWS[ 0 .. 2 ] ]);
rows($READ, 'nor is it for what was read before', [ $ROWS[0], 'read 0 0 5.1', @ROWS[ 1, 2 ] ]);
rows('', 'the WAL went with its primary', [ @ROWS[ 1 .. 3 ] ], wal_began => 7);
rows($READ, 'a table did not', [ @ROWS[ 1 .. 3 ] ], wal_began => 7, delivery => 'outbox');
rows($BEHIND, "an older row behind a newer one: $_", \@BEHIND, delivery => $_) foreach qw(on_commit outbox wal);
rows('', 'which a call had read that has failed', \@BEHIND, delivery => 'on_commit', @failed);
rows($BEHIND, 'but what waited in the outbox', \@BEHIND, delivery => 'outbox', @failed);
rows($BEHIND, 'or was read for a newer change', [ @BEHIND[ 0 .. 2 ], 'read 0 0 25.0', 'read 2 2 31.0' ], delivery => 'on_commit',
	calls => [ '4.0 call DELIVERY', '6.0 told DELIVERY ok', '15.0 call DELIVERY', '18.0 told DELIVERY 58030 text', '18.2 call DELIVERY', '32.0 told DELIVERY ok' ]);
rows($BEHIND, 'changes the other way round', [ @ROWS[ 0, 2, 1, 3 ] ]);
rows('', 'where no order is promised', [ @ROWS[ 0, 2, 1, 3 ] ], strict => 0);
rows($BEHIND, 'a change twice', [ @ROWS[ 0 .. 2, 2, 3 ] ]);
rows('', 'one that was not committed', [ @ROWS, 'update 3 3 31.5' ], delivery => 'on_commit', end => 'commit');
rows('^no message for the outbox', 'one that was rolled back', [ @ROWS, 'update 3 3 31.5' ]);
rows($LAST, 'the row is another one by now', \@ROWS, version => 3);
rows('^every error is', 'a call is told what nobody knows', \@ROWS, calls => [ '4.0 call DELIVERY', '4.5 told DELIVERY XX000 bug', '4.7 call DELIVERY', '6.0 told DELIVERY ok', '30.0 call DELIVERY', '32.0 told DELIVERY ok' ]);

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
		write_lines("$log.probe$node", map { my $time = $_ / 4; ("$time sync " . ($well->($time) ? $case{slow} ? '0.2' : '0.01' : ''), "$time held 0.01") } grep { !$case{unprobed} || $_ < 50 } 4 .. 80);
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
ridden_out('', 'none is well enough for a connection in half a second', slow => 1);
ridden_out('', 'the other one is well for a part of the time', node2 => sub { $_[0] < 12 || $_[0] > 12.5 });
ridden_out($RIDDEN_OUT, 'and for all of it', node2 => sub { $_[0] < 9 || $_[0] > 9.5 });
ridden_out('', 'for another stream', node2 => $never, node1 => $never);
ridden_out('', 'nobody has looked', unprobed => 1);
ridden_out('', 'nobody has looked in a short time', unprobed => 1, from => '14.0');
ridden_out($RIDDEN_OUT, 'of another stream, which is all that it needs', mode => 'held', node2 => $never);
ridden_out('', 'what an earlier transaction has published to such a stream', text => '1~message~was~not~acknowledged~in~time');
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
