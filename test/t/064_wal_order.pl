
# The relay of the WAL as the only writer of a stream: all messages of the stream are stored in the order of the commits,
# each one once, whatever fails, and they are pipelined. And where it is not the only writer, or the stream changes under
# it: each message is stored once, those of a subject in the order of the commits.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsProxy;
use NatsServer;
use OrderTest;
use PsqlSession;
use PublishTest;
use RelayTest;

my $LONG = 300;    # seconds: for what is a matter of seconds on an idle machine
my $COUNT = 20_000;

# what is published again, after a crash, is known to the streams for all of the test
my %CONFIG = (storage => 'file', duplicate_window => 20 * 60 * 1_000_000_000);
my $nats = NatsServer->new(jetstream => 1)->start;
my $is_strict = client()->info->{version} !~ /^2\.(?:9|10)\./;
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.relay_ordering' => $is_strict ? 'strict' : 'pipelined',
	'nats_publish.outbox_storage' => 'wal',
	'nats_publish.connect_timeout' => '500ms',
	'nats_publish.ack_timeout' => '60s',
	'wal_level' => 'logical',
	'log_statement' => 'none',
	'restart_after_crash' => 'on');
my $session = PsqlSession->new($node);

sub client { return NatsClient->new(url => $nats->url); }
sub messages { return client()->consume($_[0] // 'O'); }
sub in_stream { return client()->stream_info('O')->{state}{messages}; }
sub wal_pid { return $session->value(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'nats_publish WAL relay')); }

# Each number is a message on one of so many subjects, in an order that has no pattern, and many of them a transaction.
$session->value(q(CREATE PROCEDURE write(first int, last int, subjects int, size int DEFAULT 10, name text DEFAULT '') LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN first .. last LOOP
			PERFORM nats_publish_outbox('o.' || (hashint4(i) & 65535) % subjects, name || i);
			IF i % size = 0 THEN
				COMMIT;
			END IF;
		END LOOP;
	END $$));

# Until all that is committed by now is read and has come to its end
sub wait_until_confirmed
{
	my $lsn = $session->value('SELECT pg_current_wal_insert_lsn()');
	return wait_for('the position',
		sub { $session->value("SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots WHERE slot_name LIKE 'nats_publish%'") eq 't' }, $LONG);
}

# Streams of which nothing is known
sub clean
{
	my %streams = @_;
	my $client = client();
	eval { $client->delete_stream($_) } foreach qw(O P);
	$client->create_stream($_, $streams{$_}, %CONFIG) foreach sort keys %streams;
	return;
}

sub has_all_in_order
{
	my ($what, @expected) = @_;
	wait_until_confirmed();
	my $chained = stream_is_in_order($what, [ messages() ], @expected);
	cmp_ok($chained, '>', @expected / 2, 'pipelined');
	return;
}

clean(O => ['o.>']);
$session->value('SELECT nats_wal_enable()');
wait_for('a relay of the WAL', sub { wal_pid() ne '' });

# ---- The order of a stream

# of which nothing is known when the first messages come
foreach my $size (1, 10, $COUNT)
{
	clean(O => ['o.>']);
	$session->value("CALL write(1, $COUNT, 100, $size)");
	has_all_in_order("transactions of $size messages of 100 subjects", 1 .. $COUNT);
}

# so large that most of it is in the file, and is sent while it is decoded
{
	clean(O => ['o.>']);
	$session->value(q(SELECT count(nats_publish_outbox('o.' || (hashint4(i) & 65535) % 100, rpad(i::text, 400))) FROM generate_series(1, 100000) AS i));
	wait_until_confirmed();
	cmp_ok(stream_is_in_order('a large transaction', [ map { { %$_, payload => $_->{payload} =~ s/ +$//r } } messages() ], 1 .. 100_000), '>', 50_000, 'pipelined');
}

# ---- Messages that are refused

{
	my $client = client();
	clean(O => ['o.>']);
	$client->js('STREAM.UPDATE.O', { %{ $client->stream_info('O')->{config} }, max_msg_size => 1000 });
	my $max_payload = $client->info->{max_payload};
	# for the stream, and for the server
	$session->value(qq(SELECT count(nats_publish_outbox('o.' || (hashint4(i) & 65535) % 100, CASE i % 500 WHEN 100 THEN repeat('x', 2000)
		WHEN 200 THEN repeat('x', $max_payload) ELSE i::text END)) FROM generate_series(1, 5000) AS i));
	has_all_in_order('messages that are too large: the others are in order', grep { $_ % 500 != 100 && $_ % 500 != 200 } 1 .. 5000);
	is($session->value('SELECT count(*), sum(attempts) FROM nats_outbox_dead'), '20|20', 'those are dead, after one attempt');
	is($session->value('SELECT count(*) FROM nats_outbox_dead WHERE last_error LIKE $$%expected%$$ OR last_error LIKE $$%wrong last%$$'), '0',
		'for no other reason');
	$session->value('TRUNCATE nats_outbox_dead');
}

# What a message itself expects is not mixed with what the relay has it expect
{
	clean(O => ['o.>']);
	$session->value(q(SELECT count(nats_publish_outbox(CASE i % 500 WHEN 0 THEN 'o.new.' || i ELSE 'o.' || (hashint4(i) & 65535) % 100 END, i::text,
		CASE i % 500 WHEN 0 THEN '{"Nats-Expected-Last-Subject-Sequence": "0"}'::jsonb WHEN 250 THEN '{"Nats-Expected-Stream": "O"}' END)) FROM generate_series(1, 5000) AS i));
	has_all_in_order('messages with expectations of their own', 1 .. 5000);
	my @own = grep { $_->{payload} % 250 == 0 } messages();
	is(join(' ', grep { /^Nats-Expected/ } map { keys %{ $_->{headers} } } @own),
		join(' ', ('Nats-Expected-Stream', 'Nats-Expected-Last-Subject-Sequence') x 10), 'nothing is added to those');
	is(scalar(grep { @$_ != 1 } map { values %{ $_->{headers} } } @own), 0, 'and nothing is there twice');
}

# A subject that is refused is moved to the table, and what comes behind it follows; others stay in order
{
	my $client = client();
	clean(O => ['o.>']);
	my $config = $client->stream_info('O')->{config};
	$client->js('STREAM.UPDATE.O', { %$config, max_msgs_per_subject => 400, discard => 'new', discard_new_per_subject => JSON::PP::true });
	$session->value(q(SELECT count(nats_publish_outbox(CASE WHEN i % 10 = 0 THEN 'o.full' ELSE 'o.' || i % 100 END, i::text)) FROM generate_series(1, 6000) AS i));
	has_all_in_order('a subject that is full', grep { $_ % 10 || $_ <= 4000 } 1 .. 6000);
	is($session->value('SELECT count(*), count(DISTINCT subject) FROM nats_outbox'), '200|1', 'its messages are in the table');
	$client->js('STREAM.UPDATE.O', { %$config, max_msgs_per_subject => -1, discard_new_per_subject => JSON::PP::false });
	wait_until_drained($session, $LONG);
	stream_is_in_order('and follow in their order', [ messages() ], (grep { $_ % 10 || $_ <= 4000 } 1 .. 6000), grep { $_ % 10 == 0 && $_ > 4000 } 1 .. 6000);
}

# ---- What ends connections, and processes

{
	clean(O => ['o.>']);
	foreach my $round (0 .. 2)
	{
		$session->begin('CALL write(' . ($round * $COUNT + 1) . ', ' . ($round + 1) * $COUNT . ', 100)');
		wait_for('some', sub { in_stream() > $round * $COUNT + 3000 }, $LONG);
		$nats->restart(stop => 'kill9');
		is($session->finish($LONG)->{error}, '', 'all is written');
		wait_until_confirmed();
	}
	has_all_in_order('the server is killed', 1 .. 3 * $COUNT);
}

# what was on its way is in doubt
{
	clean(O => ['o.>']);
	foreach my $round (0 .. 4)
	{
		my $proxy = NatsProxy->new($nats, break => 'puback', times => 5);
		reconfigure($node, 'nats_publish.url' => $proxy->url);
		$session->value('CALL write(' . ($round * 4000 + 1) . ', ' . ($round + 1) * 4000 . ', 100)');
		wait_until_confirmed();
		is($proxy->broken, 5, 'connections were cut');
		reconfigure($node, 'nats_publish.url' => $nats->url);
		$proxy->stop;
	}
	has_all_in_order('connections are cut again and again', 1 .. 20_000);
}

{
	clean(O => ['o.>']);
	my $last = 0;
	foreach my $signal (qw(TERM KILL TERM KILL))
	{
		$session->value("CALL write($last + 1, $last + $COUNT, 100)");
		wait_for('some', sub { in_stream() > $last + 3000 }, $LONG);
		my $pid = wal_pid();
		kill($signal, $pid) == 1 or die "no relay to end: $!";
		wait_for('its end', sub { !process_is_there($pid) });
		wait_until_back($node);
		$session->kill;
		$session = PsqlSession->new($node);
		wait_until_confirmed();
		$last += $COUNT;
	}
	has_all_in_order('the relay is ended and killed', 1 .. $last);
}

# ---- Others write, and the stream changes

# the relay of the table, which is not taken for a stranger; before there was one, for whom the stream rests
{
	clean(O => ['o.>']);
	my $offset = log_length($node);
	my $table = PsqlSession->new($node, settings => { 'nats_publish.outbox_storage' => 'table' });
	# a stream can't be told of before its first acknowledgment
	$table->value(q(SELECT nats_publish_outbox('o.1', 'probe')));
	wait_until_drained($session, $LONG);
	my $count = 4000;
	foreach my $round (1 .. 3)
	{
		my @numbers = (($round - 1) * $count + 1, $round * $count);
		$table->begin(sprintf q(CALL write(%d, %d, 10, 10, 'table ')), @numbers);
		$session->value(sprintf q(CALL write(%d, %d, 10, 10, 'main ')), @numbers);
		is($table->finish($LONG)->{error}, '', 'both write');
		wait_until_confirmed();
		wait_until_drained($session, $LONG);
		# a stranger would have it wait for 10 seconds, and longer each time
		wait_for('it to be pipelined again', sub {
			sleep 0.2;
			$session->value("SELECT nats_publish_outbox('o.1', 'probe')");
			$session->value('SELECT ordering FROM nats_wal_relay') eq 'pipelined';
		}, 5);
	}
	# has it look into its tables again
	reconfigure($node);
	wait_until_confirmed();
	is($session->value('SELECT ordering FROM nats_wal_relay'), 'pipelined', 'which it says also when it has looked around');
	subjects_are_in_order('beside the relay of the table', 'main', 3 * $count, messages());
	subjects_are_in_order('its messages', 'table', 3 * $count, messages());
	is(scalar(log_lines($node, $offset, qr/another publisher writes to stream/)), 0, 'nobody is said to be another publisher');
	$table->close;
}

{
	clean(O => ['o.>']);
	my $writer = OtherWriter->new($nats->url, 0.2, map { "o.$_" } 0 .. 9);
	$session->value("CALL write(1, $COUNT, 10, 10, 'main ')");
	wait_until_confirmed();
	$writer->stop;
	subjects_are_in_order('another writer now and then', 'main', $COUNT, messages());

	clean(O => ['o.>']);
	my @writers = map { OtherWriter->new($nats->url, 0, map { "o.$_" } 0 .. 9) } 1 .. 2;
	wait_for('others', sub { in_stream() > 1000 }, $LONG);
	$session->value("CALL write(1, $COUNT, 10, 10, 'main ')");
	wait_until_confirmed();
	$_->stop foreach @writers;
	my $chained = subjects_are_in_order('writers without a pause', 'main', $COUNT, messages());
	cmp_ok($chained, '<', $COUNT / 2, 'most goes by subject');
}

# a subject moves to another stream
{
	my $client = client();
	clean(O => ['o.>'], P => ['p.>']);
	$session->begin("CALL write(1, $COUNT, 4, 10, 'main ')");
	wait_for('some', sub { in_stream() > 2000 }, $LONG);
	my $config = $client->stream_info('O')->{config};
	$client->js('STREAM.UPDATE.O', { %$config, subjects => [ 'o.0', 'o.1', 'o.x' ] });
	$client->js('STREAM.UPDATE.P', { %$config, name => 'P', subjects => [ 'p.>', 'o.2', 'o.3' ] });
	is($session->finish($LONG)->{error}, '', 'all is written');
	# the load may have been over before the change
	$session->value("CALL write($COUNT + 1, 2 * $COUNT, 4, 10, 'main ')");
	wait_until_confirmed();
	wait_until_drained($session, $LONG);
	subjects_are_in_order('subjects that move to another stream', 'main', 2 * $COUNT, messages('O'), messages('P'));
	cmp_ok(scalar(messages('P')), '>', 1000, 'both have their part');
}

# it is deleted and made anew
{
	clean(O => ['o.>']);
	$session->begin("CALL write(1, $COUNT, 10, 10, 'main ')");
	wait_for('some', sub { in_stream() > 2000 }, $LONG);
	clean(O => ['o.>']);
	is($session->finish($LONG)->{error}, '', 'all is written');
	$session->value("CALL write($COUNT + 1, 2 * $COUNT, 10, 10, 'main ')");
	wait_until_confirmed();
	wait_until_drained($session, $LONG);
	my @messages = messages();
	my ($first) = sort { $a <=> $b } map { $_->{payload} =~ /(\d+)/ } @messages;
	cmp_ok($first, '>', 1000, 'a stream that is made anew has what comes behind');
	my %seen;
	is(scalar(grep { $seen{ $_->{payload} }++ } @messages), 0, 'nothing twice');
	is(scalar(grep { !$seen{"main $_"} } $COUNT + 1 .. 2 * $COUNT), 0, 'and all to the last one');
}

is($session->value('SELECT count(*) FROM nats_outbox_dead'), '0', 'none is dead');
is_deeply([ log_lines($node, 0, qr/PANIC|was passed by|terminated by signal (?!9)/) ], [], 'nothing has crashed by itself');

done_testing();
