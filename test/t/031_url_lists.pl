
# Lists of servers, and the servers that a cluster tells of: the order in which they are tried, what is told being only
# places to try, and that a session goes from one to the next without losing or doubling a message.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use NatsClient;
use NatsServer;
use PublishTest;

my $CRLF = "\r\n";

# What ends at once, and what ends at its own timeout, on a loaded machine.
my $BOUND = 20;

# As in 006_memory.pl
my $FEW_MB = 8 * 1024;

my $PUBLISH = q(SELECT (nats_publish('t.a', 'x')).stream);

my $node = publishing_node('main', 'nats_publish.commit_timeout' => '30s', 'nats_publish.ack_timeout' => '30s');

sub session { return publishing_session($node, @_); }

sub session_to { my ($urls, %settings) = @_; return session(url => ref $urls ? join(',', @$urls) : $urls, %settings); }

sub server_name { return $_[0]->value('SELECT server_name FROM nats_server_info()'); }

# A server with a stream that is named like it.
sub server_with_stream
{
	my ($name) = @_;
	my $nats = NatsServer->new(name => $name, jetstream => 1)->start;
	NatsClient->new(url => $nats->url)->create_stream($name, ['t.>'], storage => 'file');
	return $nats;
}

# Servers of one cluster, without JetStream, and one that has it and is told to clients of none: a leaf of the first.
sub cluster
{
	my ($names, $login) = @_;
	my @ports = map { free_port() } @$names;
	my $leaf_port = free_port();
	my $routes = join ', ', map { qq("nats-route://127.0.0.1:$_") } @ports;
	my $accounts = "authorization { user: \"$login->{user}\", password: \"$login->{pass}\" }";
	my @members = map {
		NatsServer->new(
			name => $names->[$_],
			config => "$accounts\ncluster { name: url_lists, listen: \"127.0.0.1:$ports[$_]\", routes: [$routes] }"
				. ($_ == 0 ? "\nleafnodes { listen: \"127.0.0.1:$leaf_port\" }" : ''))
	} 0 .. $#$names;
	my $store = NatsServer->new(
		name => 'store',
		jetstream => 1,
		config => "leafnodes { remotes: [ { url: \"nats-leaf://$login->{user}:$login->{pass}\@127.0.0.1:$leaf_port\" } ] }");
	return ($store, @members);
}

# Until a member tells its clients of so many servers.
sub wait_for_members
{
	my ($login, $count, @members) = @_;
	foreach my $member (@members)
	{
		wait_for("$count members", sub { @{ NatsClient->new(url => $member->url, %$login)->info->{connect_urls} // [] } == $count });
	}
	return;
}

# A server that accepts and says nothing, and an address at which nobody listens.
sub black_hole { return FakeServer->new(sub { my ($peer) = @_; $peer->note('hole'); $peer->hold; return; }); }
sub dead_url { return 'nats://127.0.0.1:' . free_port(); }

my @three = map { server_with_stream($_) } qw(first second third);
my @urls = map { $_->url } @three;

# The order of the list

is(session_to(\@urls)->value($PUBLISH), 'first', 'the first of three') foreach 1 .. 3;
is(session_to([ reverse @urls ])->value($PUBLISH), 'third', 'the first of the same list in reverse') foreach 1 .. 3;
is(session_to([ dead_url(), $urls[1], $urls[0] ])->value($PUBLISH), 'second', 'the second, when the first refuses connections');
{
	my @holes = (black_hole(), black_hole());
	my $session = session_to([ (map { $_->url } @holes), $urls[2] ], connect_timeout => '1500ms');
	my $result = $session->run($PUBLISH);
	is($result->{output}, 'third', 'the third, when two accept and say nothing') or diag $result->{error};
	is(join(' ', map { $_->next_event(5) // '-' } @holes), 'hole hole', 'both were asked');
	cmp_ok($result->{seconds}, '>=', 2.9, 'and waited for, connect_timeout each');
	cmp_ok($result->{seconds}, '<', $BOUND, 'and not longer');
	$result = session_to([ map { $_->url } @holes ], connect_timeout => '500ms')->run($PUBLISH);
	is($result->{sqlstate}, '58000', 'no server that answers');
	like($result->{error}, qr/\Q$_\E/, 'is named') foreach map { $_->url =~ s{nats://}{}r } @holes;
	cmp_ok($result->{seconds}, '>=', 0.9, 'after connect_timeout for each');
}
{
	my $session = session_to(\@urls);
	$session->value($PUBLISH);
	my $seen = '';
	foreach my $i (0 .. 2, 0)
	{
		$seen .= server_name($session) . ' ';
		$three[$i]->restart;
	}
	is($seen, 'first second third first ', 'each loss leads to the next one of the list, and around it');
}

# In random order: 60 sessions over three servers; fewer than 5 on one of them would be chance once in 10^5 times

{
	my %count = map { ($_ => 0) } qw(first second third);
	$count{ session_to(\@urls, randomize => 'on')->value($PUBLISH) }++ foreach 1 .. 60;
	cmp_ok($count{$_}, '>=', 5, "randomize spreads sessions: $_") foreach sort keys %count;
	is(session_to([ dead_url(), dead_url(), $urls[1] ], randomize => 'on')->value($PUBLISH), 'second', 'and finds the one that is there')
		foreach 1 .. 3;
}
$_->stop foreach @three;

# A cluster, of which a session is given one server

{
	my $login = { user => 'alice', pass => 's3cret' };
	my ($store, $hub, $left, $right, $late) = cluster([ 'hub', 'left', 'right', 'late' ], $login);
	$_->start foreach $hub, $left, $right, $store;
	wait_for_members($login, 3, $hub, $left, $right);
	my $client = NatsClient->new(url => $store->url);
	$client->create_stream('T', ['t.>'], storage => 'file');
	my $url_of = sub { return $_[0]->url =~ s{//}{//alice:s3cret@}r };
	wait_for('the stream', sub { session_to($url_of->($_))->run($PUBLISH)->{output} eq 'T' }) foreach $left, $right;

	my $session = session_to($url_of->($left));
	is($session->value($PUBLISH), 'T', 'one server of a cluster');
	$left->kill9;
	is($session->value($PUBLISH), 'T', 'another one takes over between transactions, with the credentials of the URL');
	like(server_name($session), qr/^(hub|right)$/, 'which is none of the list');
	unlike($session->value('SELECT url FROM nats_server_info()'), qr/alice|s3cret/, 'and shown without them');
	$left->start;
	wait_for_members($login, 3, $hub, $left, $right);

	# in the middle of a transaction, with messages under way
	foreach my $lost ($left, $right, $left)
	{
		$client->purge('T');
		$session = session_to($url_of->($lost));
		$session->value(q(BEGIN; SELECT count(nats_publish_async('t.' || i, i::text)) FROM generate_series(1, 2000) i));
		$lost->stall;
		$session->value(q(SELECT count(nats_publish_async('t.' || i, i::text)) FROM generate_series(2001, 3000) i));
		$lost->kill9;
		my $result = $session->run(q(SELECT count(nats_publish_async('t.' || i, i::text)) FROM generate_series(3001, 4000) i; COMMIT));
		is($result->{error}, '', 'a server is lost in the middle of a transaction');
		my $state = $client->stream_info('T')->{state};
		is("$state->{messages} $state->{num_subjects}", '4000 4000', 'each message is there exactly once');
		is($session->value('SELECT failed, connections_lost FROM nats_session_stats()'), '0|1', 'over two connections');
		$lost->start;
		wait_for_members($login, 3, $hub, $left, $right);
	}

	# A member that joins later is told of on an open connection; in the end it is the only one
	$session = session_to($url_of->($left));
	$session->value($PUBLISH);
	$late->start;
	wait_for_members($login, 4, $hub, $left, $right, $late);
	$session->value($PUBLISH);    # reads what has come
	$_->kill9 foreach $left, $right, $hub;
	is(server_name($session), 'late', 'a member that has joined later takes over');
	$hub->start;
	wait_for('the stream', sub { $session->run($PUBLISH)->{output} eq 'T' });
	pass('and publishes');
	$_->stop foreach $store, $hub, $late;
}

# What a lying server tells

$three[0]->start;

# Publishes to a server that tells this in an INFO of an open connection, and loses it: the next connect goes on behind it.
sub told
{
	my ($what, $urls, $expected) = @_;
	my $info = "{\"server_id\":\"FAKE\",\"max_payload\":1048576,\"connect_urls\":$urls}";
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			return if $number > 1;
			$peer->handshake;
			while (my $command = $peer->next_command)
			{
				next unless $command->{verb} eq 'PUB';
				$peer->send("INFO $info$CRLF") foreach 1 .. 3;
				$peer->reply($command, '{"stream":"FAKE","seq":1}');
				return if $command->{payload} eq 'last';
			}
		});
	# short, for a message can be on its way when the connection ends
	my $session = session_to($fake->url, connect_timeout => '1s', ack_timeout => '2s');
	my $before = process_memory($session->pid);
	my ($memory) = peak_memory($session, q(SELECT (nats_publish('t.a', 'first')).stream));
	cmp_ok($memory - $before, '<', $FEW_MB, "$what: bounded memory");
	$session->value(q(SELECT (nats_publish('t.a', 'last')).stream));
	my $result = $session->run($PUBLISH);
	like($result->{output} || $result->{sqlstate}, $expected, "$what: goes where it can") or diag $result->{error};
	cmp_ok($result->{seconds}, '<', 3 * $BOUND, 'in bounded time');
	is($session->value("SET nats_publish.url = '$urls[0]'; $PUBLISH"), 'first', 'the session goes on');
	return;
}

my $real = '"127.0.0.1:' . $three[0]->port . '"';
my $refusing = join ',', map { qq("127.0.0.1:$_") } 1 .. 3;
told('a server that is there', "[$real]", qr/^first$/);
told('a server that is there, at the end', "[$refusing,$real]", qr/^first$/);
told('one that is told of many times', '[' . join(',', ($real) x 5000) . ']', qr/^first$/);
told('100,000 servers', '[' . join(',', map { '"0:' . ($_ % 65000) . '"' } 200 .. 100199) . ']', qr/^580[03]0$/);
told('1 MB of text', '["' . 'x' x 1_000_000 . '"]', qr/^580[03]0$/);
told('invalid ones, and then a good one', "[\"\",\"a b\",\":\",\"h:0\",\"h:99999\",\"http://h\",\"[::1\",\"\\u0000\",$real]", qr/^first$/);
told('ones with credentials', '["mallory:pw@127.0.0.1:' . $three[0]->port . '"]', qr/^580[03]0$/);
told('what is no list', '{"a":1}', qr/^580[03]0$/);
told('no servers', '[]', qr/^580[03]0$/);

{
	# more text than any line may have is not the protocol
	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			$peer->send('INFO {"connect_urls":[' . '"h:1",' x 400000 . "\"h:2\"]}$CRLF");
			$peer->reply($command, '{"stream":"FAKE","seq":1}');
			return;
		});
	my $session = session_to($fake->url, ack_timeout => '2s');
	my $before = process_memory($session->pid);
	my ($peak) = peak_memory($session, q(DO $$ BEGIN PERFORM nats_publish('t.a', 'x'); RAISE 'it was published';
		EXCEPTION WHEN OTHERS THEN IF sqlstate !~ '^580[03]0' THEN RAISE; END IF; END $$));
	cmp_ok($peak - $before, '<', $FEW_MB, 'a line of 2 MB ends the connection, in bounded memory');
	is($session->value("SET nats_publish.url = '$urls[0]'; $PUBLISH"), 'first', 'and the session goes on');
}
{
	# told at the connection's start, which the library reads
	my $fake = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, '{"stream":"FAKE","seq":1}'); return; },
		connect_urls => '[' . join(',', map { qq("127.0.0.1:$_") } 1 .. 1000) . ']');
	my $session = session_to($fake->url, ack_timeout => '2s');
	my ($memory) = peak_memory($session, q(SELECT (nats_publish('t.a', 'x')).stream));
	cmp_ok($memory, '<', 4 * $FEW_MB, '1,000 servers at the start: bounded memory');
	$fake->stop;
	like($session->sqlstate($PUBLISH), qr/^580[03]0$/, 'none of which is there');
	is($session->value("SET nats_publish.url = '$urls[0]'; $PUBLISH"), 'first', 'and the session goes on');
}

# Trying again: not in a tight loop, and not all backends at the same moment

foreach my $refuses (
	[ 'closes at once', sub { return; } ],
	[ 'refuses the login', sub {
		my ($peer) = @_;
		$peer->send($peer->info_line(auth_required => 'true'));
		$peer->next_command;
		$peer->send("-ERR 'Authorization Violation'$CRLF");
		return;
	} ],
	[ 'resets', sub { my ($peer) = @_; $peer->abort; return; } ])
{
	my ($what, $handler) = @$refuses;
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			$peer->note("connection $number");
			return $handler->($peer) if $number > 1;
			$peer->handshake;
			while (my $command = $peer->next_command) { return if $command->{verb} eq 'PUB' && $command->{payload} eq 'lost'; }
			return;
		});
	my $session = session_to($fake->url, commit_timeout => '3s', ack_timeout => '3s');
	my $result = $session->run(q(BEGIN; SELECT nats_publish_async('t.a', 'lost') \g /dev/null
		COMMIT));
	like($result->{sqlstate}, qr/^(580[03]0|28000)$/, "a server that $what: COMMIT gives up");
	my $attempts = 0;
	$attempts++ while defined $fake->next_event(0.1);
	# delays that double from 50 ms to 1 s, each 3/4 to 5/4 of itself: 6 or 7 in 3 s
	cmp_ok($attempts, '>=', 3, 'it has tried again');
	cmp_ok($attempts, '<=', 15, 'and not in a tight loop');
}
{
	my $session = session_to($urls[0], commit_timeout => '3s');
	$session->value(qq(BEGIN; $PUBLISH));
	$three[0]->stall;
	$session->value(q(SELECT nats_publish_async('t.a', 'lost') > 0));
	$three[0]->kill9;
	my $ticks = process_ticks($session->pid);
	isnt($session->sqlstate('COMMIT'), '', 'a server that is gone');
	cmp_ok(process_ticks($session->pid) - $ticks, '<', 100, 'is waited for without work');
	$three[0]->start;
}
{
	my @times;
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			$peer->handshake;
			$peer->note("$number " . time);
			while (my $command = $peer->next_command)
			{
				next unless $command->{verb} eq 'PUB';
				# the first 20 connections wait, and are lost at the same moment
				if ($number <= 20) { sleep 0.001 while !-e "$PostgreSQL::Test::Utils::tmp_check/go"; return; }
				$peer->reply($command, '{"stream":"FAKE","seq":1}');
			}
			return;
		});
	my @sessions = map { session_to($fake->url, ack_timeout => '180s') } 1 .. 20;
	$_->begin($PUBLISH) foreach @sessions;
	$_->wait_until_waiting foreach @sessions;
	$fake->next_event foreach 1 .. 20;
	append_to_file("$PostgreSQL::Test::Utils::tmp_check/go", '');
	is($_->finish->{output}, 'FAKE', 'a backend that waited has connected again') foreach @sessions;
	my @again = sort { $a <=> $b } map { (split / /, $fake->next_event)[1] } 1 .. 20;
	my $spread = $again[-1] - $again[0];
	# over 50 ms, where less than 28 would be chance once in 5,000 times; without that, over what accepting them takes, 22
	cmp_ok($spread, '>', 0.028, 'the connections of 20 backends are spread');
	cmp_ok($spread, '<', $BOUND, 'and not for long');
	unlink "$PostgreSQL::Test::Utils::tmp_check/go";
}

is($node->safe_psql('postgres', 'SELECT 1'), '1', 'PostgreSQL lives');
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP|server process/, 'and no backend has crashed');

done_testing();
