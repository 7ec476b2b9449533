
# Atomic commits whose connection is lost: COMMIT ends in success when the batch is stored once, or in an error that
# says what is known. NATS_SERVER_NEW names the binary of a nats-server that has them (2.12 or later).

use strict;
use warnings FATAL => 'all';

use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use NatsClient;
use NatsProxy;
use NatsServer;
use PsqlSession;
use PublishTest;

plan skip_all => 'NATS_SERVER_NEW does not name a newer nats-server' unless $ENV{NATS_SERVER_NEW};

# One user may read streams, the other may not.
my $users = <<'END';
authorization {
  users = [
    { user: all, password: all }
    { user: less, password: less, permissions: { publish: { deny: "$JS.API.STREAM.MSG.GET.>" } } }
  ]
}
no_auth_user: all
END
my $nats = NatsServer->new(name => 'new', jetstream => 1, binary => $ENV{NATS_SERVER_NEW}, config => $users)->start;
my $old = NatsServer->new(name => 'old', jetstream => 1)->start;
my $client = NatsClient->new(url => $nats->url);
my $old_client = NatsClient->new(url => $old->url);
$old_client->create_stream('A', ['a.>']);
my $node = publishing_node('main', 'nats_publish.commit_batch' => 'atomic', 'nats_publish.commit_timeout' => '30s');
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');

sub clean
{
	$client->delete_stream('A') if eval { $client->stream_info('A') };
	$client->create_stream('A', ['a.>'], storage => 'file', allow_atomic => \1);
	$node->safe_psql('postgres', 'TRUNCATE t');
	return;
}

sub payloads { return join ' ', map { $_->{payload} } $client->stream_messages('A'); }
sub rows { return $node->safe_psql('postgres', 'SELECT count(*) FROM t'); }

# A COMMIT of five messages through a proxy that breaks: its result, and the proxy.
my $ids_given = q(SELECT count(nats_publish_on_commit('a.' || i % 2, i::text, msg_id => 'id ' || i)) FROM generate_series(1, 5) i);
my $ids_automatic = q(SELECT count(nats_publish_on_commit('a.' || i % 2, i::text)) FROM generate_series(1, 5) i);

sub commit
{
	my ($held, %args) = @_;
	my $proxy = NatsProxy->new($nats, %args);
	my $url = $proxy->url($args{user}) . ($args{more_urls} // '');
	my $session = PsqlSession->new($node, settings => { 'nats_publish.url' => $url, %{ $args{settings} // {} } });
	my $result = $session->run("BEGIN; INSERT INTO t VALUES (1); $held; COMMIT");
	$result->{stats} = $session->value('SELECT published, acked FROM nats_session_stats()');
	is($proxy->broken, $args{times} // 1, ($args{times} // 1) == 1 ? 'the connection was broken' : "$args{times} connections were broken");
	return $result;
}

# The acknowledgment is lost: the batch is stored

clean();
my $result = commit($ids_automatic, break => 'acknowledged');
is($result->{error}, '', 'a lost acknowledgment, automatic ids: COMMIT succeeds');
is(payloads(), '1 2 3 4 5', 'the batch is stored once');
is(rows(), 1, 'and the row');
is($result->{stats}, '5|5', 'it is counted once');

clean();
$result = commit(q(SELECT nats_publish_on_commit('a.1', 'one')), break => 'acknowledged');
is($result->{error} . payloads() . rows(), 'one1', 'a batch of one message');

clean();
$result = commit($ids_given, break => 'acknowledged');
is($result->{error}, '', 'with ids of the user: the stream is asked, and COMMIT succeeds');
is(payloads() . ' ' . rows(), '1 2 3 4 5 1', 'the batch is stored once, and the row');

clean();
$result = commit($ids_given, break => 'acknowledged', user => 'less:less');
is($result->{sqlstate}, '58030', 'with ids of the user, who may not ask: nobody knows') or diag($result->{error});
like($result->{error}, qr/HINT/, 'a hint says what can be done');
is(payloads() . ' ' . rows(), '1 2 3 4 5 0', 'the batch is stored once, the row is not');

clean();
$result = commit($ids_automatic, break => 'acknowledged', user => 'less:less');
is($result->{error} . payloads() . ' ' . rows(), '1 2 3 4 5 1', 'who may not ask needs not ask with automatic ids');

my $overtaking = $nats->url;
clean();
$result = commit($ids_given, break => 'acknowledged', on_break => sub { NatsClient->new(url => $overtaking)->js_publish('a.1', 'other'); });
is($result->{sqlstate}, '58030', 'ids of the user, and another message has come after the batch: nobody knows') or diag($result->{error});
is(payloads() . ' ' . rows(), '1 2 3 4 5 other 0', 'the batch is stored once, the row is not');

clean();
$result = commit($ids_automatic, break => 'acknowledged', on_break => sub { NatsClient->new(url => $overtaking)->js_publish('a.1', 'other'); });
is($result->{error} . payloads() . ' ' . rows(), '1 2 3 4 5 other 1', 'with automatic ids it is known');

# An id that is there already is no proof that the batch is: the message can be another one.
clean();
$client->js_publish('a.1', 'foreign', headers => { 'Nats-Msg-Id' => 'id 5' });
$result = commit($ids_given, break => 'commit');
is($result->{sqlstate}, '58030', 'an id that is stored already, when the first attempt may be: nobody knows') or diag($result->{error});
is(payloads() . ' ' . rows(), 'foreign 0', 'nothing is stored');

# Expectations are checked before ids: the batch itself has changed what it expected.
clean();
$result = commit(q(SELECT nats_publish_on_commit('a.1', '1', expect_last_subject_seq => 0), nats_publish_on_commit('a.1', '2')), break => 'acknowledged');
is($result->{error} . payloads() . ' ' . rows(), '1 2 1', 'with expect_last_subject_seq: COMMIT succeeds');
clean();
$result = commit(q(SELECT nats_publish_on_commit('a.1', '1', expect_last_seq => 0), nats_publish_on_commit('a.2', '2')), break => 'acknowledged');
is($result->{error} . payloads() . ' ' . rows(), '1 2 1', 'with expect_last_seq: COMMIT succeeds');
# whether or not the server looks at the ids first, which would be a proof, so that it need not be asked
clean();
$result = commit(q(SELECT nats_publish_on_commit('a.1', '1', expect_last_subject_seq => 0), nats_publish_on_commit('a.1', '2')),
	break => 'acknowledged', user => 'less:less');
like($result->{sqlstate}, qr/^(58030)?$/, 'by a user who may not ask: COMMIT succeeds, or nobody knows');
is(payloads() . ' ' . rows(), '1 2 ' . ($result->{sqlstate} ? 0 : 1), 'the batch is stored once, and the row if COMMIT succeeds');

# Without ids the server would store a second batch like the first: it must not be sent.
clean();
my @without_ids = (settings => { 'nats_publish.auto_msg_id' => 'off' });
my $lost_in_doubt = qr/as one batch: the connection was lost before its acknowledgment arrived\n.*HINT:  Read the stream/s;
$result = commit($ids_automatic, break => 'acknowledged', @without_ids);
is($result->{error}, '', 'without ids: the stream is asked, and COMMIT succeeds');
is(payloads() . ' ' . rows(), '1 2 3 4 5 1', 'the batch is stored once, and the row');
clean();
$result = commit($ids_automatic, break => 'acknowledged', user => 'less:less', @without_ids);
is($result->{sqlstate}, '58030', 'without ids, by a user who may not ask: nobody knows');
like($result->{error}, $lost_in_doubt, 'it says so');
is(payloads() . ' ' . rows(), '1 2 3 4 5 0', 'the batch is stored once, the row is not');
clean();
$result = commit($ids_automatic, break => 'commit', @without_ids);
is($result->{sqlstate}, '58030', 'without ids, lost before the last member: nobody knows');
like($result->{error}, $lost_in_doubt, 'it says so');
is(payloads() . ' ' . rows(), ' 0', 'nothing is stored, no row');

# The last member does not arrive: the batch is not stored, and sent again

foreach my $break ('commit', 'half')
{
	foreach my $case ([ 'automatic ids', $ids_automatic ], [ 'ids of the user', $ids_given ])
	{
		foreach my $times (1, 3)
		{
			clean();
			$result = commit($case->[1], break => $break, times => $times);
			is($result->{error} . payloads() . ' ' . rows(), '1 2 3 4 5 1', "lost before the last member ($break), $times times, $case->[0]: stored once");
		}
	}
}
clean();
$result = commit($ids_automatic, break => 'acknowledged', times => 3);
is($result->{error} . payloads() . ' ' . rows(), '1 2 3 4 5 1', 'lost acknowledgments, and lost refusals');

# The server is gone for good then

clean();
$result = commit($ids_automatic, break => 'acknowledged', then_close => 1, settings => { 'nats_publish.commit_timeout' => '4s' });
is($result->{sqlstate}, '58030', 'a lost acknowledgment, and no server to ask: nobody knows') or diag($result->{error});
is(payloads() . ' ' . rows(), '1 2 3 4 5 0', 'the batch is stored once, the row is not');
clean();
$result = commit($ids_automatic, break => 'commit', then_close => 1, settings => { 'nats_publish.commit_timeout' => '4s' });
like($result->{sqlstate}, qr/^580[03]0$/, 'lost before the last member, and no server any more') or diag($result->{error});
is(payloads() . ' ' . rows(), ' 0', 'nothing is stored, no row');

# A server that loses the batch as it likes. Of its connections every second one only asks for its version, and has no
# messages.

# Two of its messages are more than max_pending_bytes.
my $few = q(SELECT count(nats_publish_on_commit('a.1', repeat('x', 40000))) FROM generate_series(1, 3));
my @small_window = (max_pending_bytes => '64kB');
# More than the kernel takes for a server that does not read, and less than max_pending_bytes.
my $much = q(SELECT count(nats_publish_on_commit('a.1', repeat('x', 900000))) FROM generate_series(1, 50));
# Where COMMIT waits in vain.
my @briefly = (commit_timeout => '4s');
my @no_ids = (auto_msg_id => 'off');

my $no_answer = qr/as one batch: no acknowledgment arrived within 4000 ms\n.*HINT:  Read the stream/s;
my $not_known = qr/as one batch: the connection was lost before its acknowledgment arrived.*HINT:  Read the stream/s;
sub unsent { my ($why) = @_; return qr/as one batch: it could not be sent \($why.*\)$/m; }

# Answers to a member of a batch as JetStream does.
sub take
{
	my ($peer, $command) = @_;
	my ($id, $number) = @{ $command->{batch} }{qw(id number)};
	$peer->reply($command, $command->{batch}{commit} ? qq({"stream":"A","seq":$number,"batch":"$id","count":$number}) : '');
	return;
}

sub take_to_commit { my ($peer, $command) = @_; return $command->{batch}{commit} ? $peer->close : take($peer, $command); }

# "Not now" to each member; and with that for the last one comes what ends the connection.
sub refuse
{
	my ($peer, $command) = @_;
	$peer->send($peer->reply_bytes($command, '', ' 503') . ($command->{batch}{commit} ? "WHAT\r\n" : ''));
	return;
}

# A COMMIT of what is held on such a server, which calls $on_publish->($peer, $command, $number of the connection) for each
# message, and with the setting "connections" is gone for good after so many. Then the session goes on with the real one.
sub commit_to
{
	my ($what, $sqlstate, $text, $held, $on_publish, %settings) = @_;
	my $connections = delete $settings{connections};
	clean();
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			return if defined $connections && $number > $connections;
			$peer->handshake(version => '"2.12.0"');
			while (my $command = $peer->next_command) { $on_publish->($peer, $command, $number) if $command->{verb} eq 'PUB'; }
			return;
		});
	my $session = publishing_session($node, url => $fake->url, %settings);
	my $lost = $session->run("BEGIN; INSERT INTO t VALUES (1); $held; COMMIT");
	is($lost->{sqlstate}, $sqlstate, $what) or diag($lost->{error});
	like($lost->{error}, $text, 'it says what is known');
	is(rows(), $sqlstate eq '' ? 1 : 0, 'the row');
	$session->value(q(SET nats_publish.commit_timeout = '30s'; SET nats_publish.url = ') . $nats->url . q('; SELECT nats_publish_on_commit('a.1', 'after')));
	is(payloads(), 'after', 'the session goes on');
	return;
}

commit_to('gone for good, and the last member was not sent', '58000', unsent('the server closed the connection|could not (send|receive): '),
	$much, sub { $_[0]->close; }, connections => 2, @briefly);
commit_to('lost again and again, and the last member was never sent', '58000', unsent('the connection was lost|no answer in time'),
	$few, sub { $_[0]->close; }, @small_window, @briefly);
commit_to('no member is answered', '58000', unsent('no answer in time'), $few, sub { }, @small_window, @briefly);
commit_to('gone for good after a refusal', '58000', unsent('the server does not speak the NATS protocol'), $few, \&refuse, connections => 2, @briefly);

commit_to('gone for good after the last member', '58030', $no_answer, $few, \&take_to_commit, connections => 2, @briefly);
commit_to('lost again and again after the last member', '58030', qr/$no_answer|$lost_in_doubt/, $few, \&take_to_commit, @briefly);

# The first attempt may be stored, whatever is known of the next ones.
sub in_doubt { my ($then) = @_; return sub { $_[2] == 1 ? take_to_commit(@_) : $then->(@_) }; }

commit_to('in doubt, and then lost again and again before the last member', '58030', qr/$no_answer|$lost_in_doubt/,
	$few, in_doubt(sub { $_[0]->close; }), @small_window, @briefly);
commit_to('in doubt, and then no member is answered', '58030', $no_answer, $few, in_doubt(sub { }), @small_window, @briefly);
commit_to('in doubt, and then gone for good after a refusal', '58030', $no_answer, $few, in_doubt(\&refuse), connections => 4, @briefly);
commit_to('in doubt, and the next server does not tell its version', '58030', $not_known, $few, in_doubt(\&take), connections => 3);
commit_to('in doubt, and then stored', '', qr/^$/, $few, in_doubt(\&take));

# Without ids a batch is sent again only if it can't be stored; else the stream is asked, which may answer anything.
commit_to('without ids, lost before the last member was sent', '', qr/^$/, $much, sub { $_[2] == 1 ? $_[0]->close : take(@_); }, @no_ids);
foreach my $message ('x', '{"headers":{}}', '{"message":[]}', '{"message":{"hdrs":1}}', '{"message":{"hdrs":"%%%"}}',
	map { '{"message":{"hdrs":"' . encode_base64("NATS/1.0\r\nNats-Batch-Id: $_\r\n\r\n", '') . '"}}' } 'x', 'x' x 22)
{
	commit_to("in doubt without ids, and the message is $message", '58030', $not_known, $few,
		in_doubt(sub { my ($peer, $command) = @_; $peer->reply($command, $command->{subject} =~ /NAMES$/ ? '{"streams":["A"]}' : $message); }), @no_ids);
}
foreach my $streams ('', '[]', '{}', '{"streams":"A"}', '{"streams":[]}', '{"streams":[{}]}', '{"streams":[null]}')
{
	commit_to("in doubt without ids, and the streams are '$streams'", '58030', $not_known, $few,
		in_doubt(sub { my ($peer, $command) = @_; $peer->reply($command, $streams); }), @no_ids);
}

# The next server of the list is an old one, which would store the members one by one

foreach my $break ('acknowledged', 'commit')
{
	clean();
	$result = commit($ids_automatic, break => $break, then_close => 1, more_urls => ',' . $old->url, settings => { 'nats_publish.commit_timeout' => '2s' });
	is($old_client->stream_info('A')->{state}{messages}, 0, "lost ($break), and the next server is an old one: it gets nothing");
	like($result->{sqlstate}, qr/^(0A000|580[03]0)$/, 'COMMIT fails') or diag($result->{error});
	is(rows(), 0, 'no row');
	$old_client->purge('A');
}

# The same for a ttl, which an old server would ignore, pipelined

{
	clean();
	$client->create_stream('L', ['l.>'], allow_msg_ttl => \1);
	$old_client->create_stream('L', ['l.>']);
	my $session = PsqlSession->new($node, settings => { 'nats_publish.url' => $nats->url . ',' . $old->url,
		'nats_publish.commit_batch' => 'pipelined', 'nats_publish.commit_timeout' => '3s', 'nats_publish.connect_timeout' => '500ms' });
	$session->value(q(SELECT nats_publish_on_commit('l.warm', 'x', ttl => '1 h')));
	$session->value(q(BEGIN; INSERT INTO t VALUES (1); SELECT count(nats_publish_on_commit('l.a', 'x', ttl => '1 h')) FROM generate_series(1, 100)));
	$nats->stall;
	$session->begin('COMMIT');
	$session->wait_until_waiting;
	$nats->kill9;
	my $sqlstate = $session->finish->{sqlstate};
	is($old_client->stream_info('L')->{state}{messages}, 0, 'messages with a ttl, and the next server is an old one: it gets nothing');
	like($sqlstate, qr/^(0A000|580[03]0)$/, 'COMMIT fails');
	is(rows(), 0, 'no row');
	$nats->start;
	$client = NatsClient->new(url => $nats->url);
}

# A server that crashes again and again, whenever it happens to be

{
	clean();
	my $session = PsqlSession->new($node, settings => { 'nats_publish.url' => $nats->url, 'nats_publish.connect_timeout' => '500ms' });
	my (%committed, @failed);
	my $rounds = 25;
	foreach my $round (1 .. $rounds)
	{
		$session->value("BEGIN; INSERT INTO t VALUES ($round); SELECT count(nats_publish_on_commit('a.$round', repeat('x', 2000))) FROM generate_series(1, 100)");
		$session->begin('COMMIT');
		sleep rand 0.008;
		$nats->restart(stop => 'kill9');
		my $sqlstate = $session->finish->{sqlstate};
		if ($sqlstate) { push @failed, $sqlstate; }
		else { $committed{$round} = 1; }
	}
	note(scalar(keys %committed), " committed, failed: @failed");
	$client = NatsClient->new(url => $nats->url);
	my $subjects = $client->js('STREAM.INFO.A', { subjects_filter => '>' })->{state}{subjects} // {};
	is(scalar(grep { $subjects->{$_} != 100 } keys %$subjects), 0, 'crashes during COMMIT: all or nothing of each batch, and once');
	is_deeply([ grep { !$subjects->{"a.$_"} } keys %committed ], [], 'what has committed is there');
	is(rows(), scalar keys %committed, 'with its row');
	is(scalar(grep { !/^58/ } @failed), 0, 'what has not says that the connection was lost');
}

done_testing();
