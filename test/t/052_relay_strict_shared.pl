
# The relay where it is not the only writer of a stream, or the stream changes under it: each message is stored once,
# those of a subject in the order of their ids, and it goes back to the pipeline by itself.

use strict;
use warnings FATAL => 'all';

use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use OrderTest;
use PsqlSession;
use PublishTest;
use RelayTest;

my $LONG = 300;    # seconds: for what is a matter of seconds on an idle machine

my $nats = NatsServer->new(jetstream => 1, config => q(
	accounts {
		A { jetstream: enabled, users: [
			{ user: all, password: all },
			{ user: mute, password: mute, permissions: { publish: { deny: ["$JS.API.>"] } } } ] }
	}
	no_auth_user: all))->start;
my %SETTINGS = (
	'nats_publish.url' => $nats->url,
	'nats_publish.relay_ordering' => 'pipelined',
	'nats_publish.ack_timeout' => '60s',
	'log_statement' => 'none');
my $node = relay_node('main', %SETTINGS);
my $session = PsqlSession->new($node);

sub client { return NatsClient->new(url => $nats->url); }

sub clean
{
	my %streams = @_;
	my $client = client();
	foreach my $stream (qw(O P)) { eval { $client->delete_stream($stream) }; }
	foreach my $stream (sort keys %streams)
	{
		$client->create_stream($stream, $streams{$stream}, storage => 'file', duplicate_window => 20 * 60 * 1_000_000_000);
	}
	return;
}

# A message of each number, over so many subjects under a first token, with a payload of who has written it and its number.
sub write_messages
{
	my ($from, $token, $count, $subjects, $first, $name) = @_;
	$first //= 1;
	$name //= 'main';
	my $last = $first + $count - 1;
	return $from->value("SELECT count(nats_publish_outbox('$token.' || i % $subjects, '$name ' || i)) FROM generate_series($first, $last) AS i");
}

sub messages { return client()->consume($_[0]); }

# ---- Others write

{
	clean(O => ['o.>']);
	write_messages($session, 'o', 100, 10);
	wait_for('the stream to be known', sub { relay_column($session, 'ordering') eq 'pipelined' });
	wait_until_drained($session, $LONG);

	# now and then: the pipeline goes on
	my $offset = log_length($node);
	my $writer = OtherWriter->new($nats->url, 0.2, map { "o.$_" } 0 .. 9);
	write_messages($session, 'o', 20_000, 10, 101);
	wait_until_drained($session, $LONG);
	$writer->stop;
	my $chained = subjects_are_in_order('another writer now and then', 'main', 20_100, messages('O'));
	cmp_ok($chained, '>', 5000, 'most is pipelined');

	# all the time: it is left, and comes back
	my @writers = map { OtherWriter->new($nats->url, 0, map { "o.$_" } 0 .. 9) } 1 .. 3;
	my $first = 20_101;
	ok(eval { wait_for('the relay to find that out', sub { write_messages($session, 'o', 2000, 10, $first); $first += 2000; wait_until_drained($session, $LONG);
		relay_column($session, 'shared_stream') eq 'O' }, $LONG) }, 'writers without a pause: the view names the stream');
	is(relay_column($session, 'ordering'), 'by subject', 'which goes by subject');
	like($session->value(q(SELECT string_agg(detail, ' ') FROM nats_check() WHERE check_name = 'relay')), qr/Somebody else writes to stream "O"/, 'the doctor tells');
	write_messages($session, 'o', 5000, 10, $first);
	$first += 5000;
	wait_until_drained($session, $LONG);
	$_->stop foreach @writers;
	subjects_are_in_order('writers without a pause', 'main', $first - 1, messages('O'));
	is(scalar(log_lines($node, $offset, qr/another publisher writes to stream "O"/)), 1, 'the log says so, once');
	ok(eval { wait_for('the pipeline', sub { write_messages($session, 'o', 1, 10, $first++); sleep 1; relay_column($session, 'ordering') eq 'pipelined' }, $LONG) },
		'when they have stopped, it is pipelined again');
	is(relay_column($session, 'shared_stream'), '', 'and nobody else is named');
	wait_until_drained($session, $LONG);
	my $before = client()->stream_info('O')->{state}{last_seq};
	write_messages($session, 'o', 5000, 10, $first);
	wait_until_drained($session, $LONG);
	cmp_ok(scalar(grep { $_->{seq} > $before && defined $_->{headers}{'Nats-Expected-Last-Msg-Id'} } messages('O')), '>', 2500, 'indeed');
}

# Two relays of two clusters on one stream: an old primary that has come back

{
	my $twin = relay_node('twin', %SETTINGS);
	my $there = PsqlSession->new($twin);
	clean(O => ['o.>']);
	foreach my $round (0 .. 4)
	{
		write_messages($session, 'o', 4000, 10, $round * 4000 + 1);
		write_messages($there, 'o', 4000, 10, $round * 4000 + 1, 'twin');
	}
	wait_until_drained($_, $LONG) foreach $session, $there;
	subjects_are_in_order("two relays, $_", $_, 20_000, messages('O')) foreach qw(main twin);
	$twin->stop('immediate');
	$there->kill;
}

# ---- The stream changes

# It is deleted and made anew, while messages are on their way
{
	clean(O => ['o.>']);
	foreach my $round (0 .. 4)
	{
		write_messages($session, 'o', 10_000, 10, $round * 10_000 + 1);
		wait_for('some', sub { client()->stream_info('O')->{state}{messages} > 1000 }, $LONG);
		clean(O => ['o.>']);
	}
	wait_until_drained($session, $LONG);
	# what was written before can have gone into the old stream, all of it
	write_messages($session, 'o', 100, 10, 50_001);
	wait_until_drained($session, $LONG);
	my @messages = messages('O');
	my %seen;
	cmp_ok(scalar(grep { $seen{ $_->{payload} }++ } @messages), '==', 0, 'a stream that is made anew: nothing is stored twice');
	my %last;
	is(scalar(grep { my ($n) = $_->{payload} =~ /(\d+)/; my $is_before = ($last{ $_->{subject} } // 0) > $n; $last{ $_->{subject} } = $n; $is_before } @messages),
		0, 'and all is in order');
	# what no stream took meanwhile is tried again
	my %first;
	$first{ $_ % 10 } //= $_ foreach map { $_->{payload} =~ /(\d+)/ } @messages;
	is(scalar(keys %first), 10, 'of each subject');
	is(scalar(grep { $_ >= ($first{ $_ % 10 } // 0) && !$seen{"main $_"} } 1 .. 50_100), 0, 'to the last one');
}

# A subject moves to another stream
{
	my $client = client();
	clean(O => ['o.>'], P => ['p.>']);
	write_messages($session, 'o', 40_000, 4);
	wait_for('some', sub { client()->stream_info('O')->{state}{messages} > 2000 }, $LONG);
	my $config = $client->stream_info('O')->{config};
	$client->js('STREAM.UPDATE.O', { %$config, subjects => [ 'o.0', 'o.1', 'o.x' ] });
	$client->js('STREAM.UPDATE.P', { %$config, name => 'P', subjects => [ 'p.>', 'o.2', 'o.3' ] });
	write_messages($session, 'o', 20_000, 4, 40_001);
	wait_until_drained($session, $LONG);
	subjects_are_in_order('subjects that move to another stream', 'main', 60_000, messages('O'), messages('P'));
	cmp_ok(scalar(messages('P')), '>', 1000, 'both have their part');
}

# ---- Who may not ask

{
	clean(O => ['o.>'], P => ['p.>']);
	reconfigure($node, 'nats_publish.url' => $nats->url =~ s{//}{//mute:mute\@}r);
	# with the next message at the earliest
	wait_for('another connection',
		sub
		{
			write_messages($session, 'o', 1, 1, 1, 'first');
			wait_until_drained($session, $LONG);
			return relay_column($session, 'ordering, shared_stream') eq 'by subject|';
		});
	write_messages($session, 'o', 5000, 100);
	wait_until_drained($session, $LONG);
	is(subjects_are_in_order('a user who may not use the API', 'main', 5000, messages('O')), 0, 'his messages are not chained');
	is(relay_column($session, 'ordering, shared_stream'), 'by subject|', 'as the view says');
}

done_testing();
