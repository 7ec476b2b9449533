
# A connection is alive only if it has answered lately: servers that are stopped, and a middle box that goes on
# acknowledging TCP but forwards nothing. A session and the relay leave such a server within the time of the call, and what
# has an id is sent again on the next one.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use FakeServer;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;
use SilentProxy;

# Half of it passes before a server is asked, a quarter before it is left, and the last quarter is for the next one.
my $TIMEOUT = '8s';

my %timeouts = (ack_timeout => $TIMEOUT, commit_timeout => $TIMEOUT);

my ($well, $client) = nats_with_stream('T', ['t.>']);
my ($other, $other_client) = nats_with_stream('T', ['t.>']);
my $node = relay_node('main', 'nats_publish.connect_timeout' => '30s', map { ("nats_publish.$_" => $timeouts{$_}) } keys %timeouts);

sub session { return publishing_session($node, %timeouts, @_); }
sub server_id { return $_[0]->value('SELECT server_id FROM nats_server_info()'); }

# The payloads of a subject at the server that is well, each as often as it is there.
sub stored { my ($subject, $from) = @_; return join ' ', map { $_->{payload} } grep { $_->{subject} eq $subject } ($from // $client)->stream_messages('T'); }

# Servers that hang, each in its own way: a function that makes one, is told the sessions that are connected to it, and
# returns what ends it.
my %hangs = (
	'a stopped server' => sub {
		my ($server) = nats_with_stream('T', ['t.>']);
		return ($server->url, sub { $server->stall; }, sub { $server->resume; });
	},
	'a silent middle box' => sub {
		my $box = SilentProxy->new($other);
		return ($box->url, sub { $box->silence; }, sub { });
	},
	'a box that forwards, and nothing comes back' => sub {
		my $box = SilentProxy->new($other);
		return ($box->url, sub { $box->silence('server'); }, sub { });
	});

# What waits for an answer. In the same order as the hanging server was connected to: before is done while it is well.
my @calls = (
	[ 'nats_publish', '', q(SELECT (nats_publish('%s', '1')).stream), '1' ],
	[ 'nats_publish_async and COMMIT', '', q(BEGIN; SELECT count(nats_publish_async('%s', i::text)) FROM generate_series(1, 3) i; COMMIT), '1 2 3' ],
	[ 'nats_publish_on_commit', '', q(BEGIN; SELECT count(nats_publish_on_commit('%s', i::text)) FROM generate_series(1, 3) i; COMMIT), '1 2 3' ],
	[ 'nats_await', '', q(BEGIN; SELECT (nats_await(nats_publish_async('%s', '1'))).stream; COMMIT), '1' ],
	[ 'nats_flush', '', q(BEGIN; SELECT nats_publish_async('%s', '1', critical => false); SELECT nats_flush(); COMMIT), '1' ],
	[ 'a full window', 'SET nats_publish.max_pending = 2', q(BEGIN; SELECT count(nats_publish_async('%s', i::text)) FROM generate_series(1, 4) i; COMMIT), '1 2 3 4' ],
	[ 'a request', '', q(SELECT nats_stream_info('T') IS NOT NULL), '' ],
	[ 'nats_server_info', '', q(SELECT jetstream FROM nats_server_info()), '' ]);

foreach my $how (sort keys %hangs)
{
	my ($url, $hang, $end) = $hangs{$how}->();
	my @sessions = map { session(url => "$url," . $well->url) } @calls;
	$_->value(q(SELECT nats_publish('t.before', 'x'))) foreach @sessions;
	$sessions[$_]->value($calls[$_][1]) foreach 0 .. $#calls;
	$hang->();
	my $subject = 't.' . $how =~ s/\W+/_/gr;
	$sessions[$_]->begin($calls[$_][2] =~ s{%s}{$subject.$_}r) foreach 0 .. $#calls;
	foreach my $number (0 .. $#calls)
	{
		my ($what, undef, undef, $expected) = @{ $calls[$number] };
		my $result = $sessions[$number]->finish;
		is($result->{error}, '', "$how: $what succeeds on the next server");
		is(stored("$subject.$number"), $expected, 'where each message is stored once') if $expected ne '';
	}
	$end->();
}

# A batch is sent to the next one as a whole
{
	my @info = (version => '"2.12.0"');
	my $hung = FakeServer->new(sub { my ($peer) = @_; $peer->handshake(@info); my $command; do { $command = $peer->next_command; } until !$command || $command->{batch}; $peer->hold; return; });
	my $next = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			my %member = %{ $command->{batch} };
			$peer->note("$member{number} $command->{payload}");
			$peer->reply($command, $member{commit} ? qq({"stream":"T","seq":3,"batch":"$member{id}","count":3}) : '');
		},
		@info);
	my $session = session(url => $hung->url . ',' . $next->url, commit_batch => 'atomic');
	is($session->run(q(BEGIN; SELECT count(nats_publish_on_commit('t.a', i::text)) FROM generate_series(1, 3) i; COMMIT))->{error}, '', 'an atomic COMMIT leaves a server that says nothing');
	is(join(', ', map { $next->next_event } 1 .. 3), '1 1, 2 2, 3 3', 'and the next one gets all members');
}

# Nor does a call fail that has to ask first what the server knows: the first atomic COMMIT of a connection, the first ttl
foreach my $case ([ 'an atomic COMMIT', q(BEGIN; SELECT nats_publish_on_commit('t.a', 'x'); COMMIT), '2.12.0' ],
	[ 'a message with a ttl', q(SELECT nats_publish('t.a', 'x', ttl => '1 min')), '2.11.0' ])
{
	my ($what, $sql, $version) = @$case;
	my $fake = sub
	{
		my ($peer, $command) = @_;
		return $peer->reply($command, qq({"stream":"T","seq":1,"batch":"$command->{batch}{id}","count":1})) if $command->{batch} && $command->{batch}{id};
		$peer->reply($command, '{"stream":"T","seq":1}');
	};
	my ($first, $next) = map { FakeServer->answering($fake, version => qq("$version")) } 1, 2;
	my $box = SilentProxy->new($first);
	my $session = session(url => $box->url . ',' . $next->url, commit_batch => 'atomic', connect_timeout => '2s');
	$session->value(q(SELECT nats_publish('t.a', 'before')));
	$box->silence;
	is($session->run($sql)->{error}, '', "$what leaves a server that does not tell its version");
}

# ---- One server: the same one, once it is there again

{
	my $box = SilentProxy->new($other);
	my $session = session(url => $box->url);
	$session->value(q(SELECT nats_publish('t.one', 'before')));
	$box->silence;
	$session->begin(q(BEGIN; SELECT nats_publish_async('t.one', 'x'); COMMIT));
	wait_for('the message', sub { $box->dropped('client') > 0 });
	$box->pass;
	is($session->finish->{error}, '', 'a box forgets the connection: COMMIT succeeds on another one to the same server');
	is(stored('t.one', $other_client), 'before x', 'which stores the message once');
	is($box->connections, 2, 'after one more connection');
}

# ---- Without an id it may be stored, so that it is not sent again; the next call is somewhere else

{
	my $box = SilentProxy->new($other);
	my $session = session(url => $box->url . ',' . $well->url, auto_msg_id => 'off');
	$session->value(q(SELECT nats_publish('t.no_id', 'before')));
	$box->silence('server');
	my $result = $session->run(q(SELECT nats_publish('t.no_id', 'x')));
	is($result->{sqlstate}, '58030', 'no answer, and no id');
	like($result->{error}, qr/can't be sent again \(it has no id\)/, 'says why');
	is($session->run(q(SELECT nats_publish('t.no_id', 'y')))->{error}, '', 'the next call succeeds');
	is(stored('t.no_id') . '; ' . stored('t.no_id', $other_client), 'y; before x', 'on the next server');
}

# ---- What nobody waits for

{
	my $box = SilentProxy->new($other);
	my $session = session(url => $box->url . ',' . $well->url, ack_timeout => '2s');
	$session->value(q(SELECT nats_publish('t.uncritical', '0')));
	$box->silence;
	my $number = 0;
	wait_for('a message at the server that is well',
		sub { $session->run(sprintf q(SELECT nats_publish_async('t.uncritical', '%d', critical => false)), ++$number); sleep 0.1; stored('t.uncritical') ne '' });
	like(stored('t.uncritical'), qr/^1 2 /, 'critical => false: the session leaves a server that says nothing, with all that it was given');
}

# ---- Alive, though it does not acknowledge

# The two wait at the same time.
{
	my $fake = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->note('got') if $command->{payload} eq 'x'; });
	my $alive = session(url => $fake->url . ',' . $well->url);
	$alive->begin(q(SELECT nats_publish('t.alive', 'x')));

	# what takes longer than half of the time is still on its way
	my $box = SilentProxy->new($well, buffer => 8192);
	my $session = session(url => $box->url, ack_timeout => '10s');
	$session->value(q(SELECT nats_publish('t.slow', 'before')));
	$box->slow(120_000);
	my $result = $session->run(q(SELECT nats_publish('t.slow', repeat('x', 800000))));
	is($result->{error}, '', 'a large message on a slow link is given the time that it takes');
	is($box->connections, 1, 'on one connection');

	$result = $alive->finish;
	is($result->{sqlstate}, '58030', 'a server that answers PING, and nothing else, is not left');
	like($result->{error}, qr/no acknowledgment arrived within 8000 ms/, 'and the error says so');
	is(stored('t.alive'), '', 'the message is not sent to another one');
}

# ---- An idle connection that has gone is made again unseen, also for what has no id

my @idle_calls = (q(SELECT (nats_publish('%s', 'x')).stream), q(BEGIN; SELECT nats_publish_async('%s', 'x'); COMMIT), q(SELECT nats_publish_on_commit('%s', 'x')),
	q(BEGIN; SELECT nats_publish_async('%s', 'x', critical => false); SELECT nats_flush(); COMMIT));
my %ends = (
	'end' => sub { $_[0]->close('client'); },
	'PING and the end' => sub { $_[0]->send("PING\r\n"); $_[0]->close('client'); },
	'INFO and the end' => sub { $_[0]->send(qq(INFO {"server_id":"x","ldm":true}\r\n)); $_[0]->close('client'); },
	'-ERR and the end' => sub { $_[0]->send("-ERR 'Stale Connection'\r\n"); $_[0]->close('client'); },
	'reset' => sub { $_[0]->cut('client'); });
foreach my $how (sort keys %ends)
{
	foreach my $ids (qw(on off))
	{
		my $box = SilentProxy->new($well);
		my @sessions = map { session(url => $box->url, auto_msg_id => $ids) } @idle_calls;
		$_->value(q(SELECT nats_publish('t.before', 'x'))) foreach @sessions;
		$ends{$how}->($box);
		my $subject = 't.idle.' . $how =~ s/\W+/_/gr . ".$ids";
		is($sessions[$_]->run(sprintf $idle_calls[$_], "$subject.$_")->{error}, '', "$how while idle, ids $ids: $idle_calls[$_]") foreach 0 .. $#idle_calls;
		is(stored("$subject.$_"), 'x', 'stored once') foreach 0 .. $#idle_calls;
	}
}

{
	my $box = SilentProxy->new($other);
	my @sessions = map { session(url => $box->url . ',' . $well->url, auto_msg_id => 'off') } @idle_calls;
	$_->value(q(SELECT nats_publish('t.before', 'x'))) foreach @sessions;
	$box->silence;
	sleep 11;	# wire/liveness.c TRUSTED_FOR
	$sessions[$_]->begin(sprintf $idle_calls[$_], "t.forgotten.$_") foreach 0 .. $#idle_calls;
	is($sessions[$_]->finish->{error}, '', "a box has forgotten the idle connection: $idle_calls[$_]") foreach 0 .. $#idle_calls;
	is(stored("t.forgotten.$_"), 'x', 'stored once') foreach 0 .. $#idle_calls;
}

# ---- A round of attempts has the time of its caller

{
	# each takes all of its own time
	my @holes = map { FakeServer->new(sub { my ($peer) = @_; $peer->hold; return; }) } 1 .. 12;
	my $urls = join q(,), map { $_->url } @holes, $well;
	my %tried;
	my $session = session(url => $urls, connect_timeout => '500ms', ack_timeout => '2s');
	my $rounds = 0;
	for (;;)
	{
		my $result = $session->run(q(SELECT nats_publish('t.round', 'x')));
		last if $result->{sqlstate} eq '';
		my @urls = $result->{error} =~ m{(nats://[\d.:]+): }g;
		cmp_ok(scalar @urls, '<=', 4, 'no more attempts than the time of the call allows');
		is(scalar(grep { $tried{$_}++ } @urls), 0, 'and each round goes on behind the last one tried');
		die "the server that is well is not reached: $result->{error}" if ++$rounds > 13;
	}
	is(stored('t.round'), 'x', 'so the one server that is well is reached');
	my $uncritical = session(url => $urls, connect_timeout => '500ms', ack_timeout => '30s');
	my $warning = $uncritical->run(q(SELECT nats_publish_async('t.round', 'y', critical => false)))->{error};
	is(scalar(() = $warning =~ m{(nats://[\d.:]+): }g), 1, 'critical => false waits for one of them');
}

# ---- The relay

{
	my $box = SilentProxy->new($other);
	my $session = PsqlSession->new($node);
	reconfigure($node, 'nats_publish.url' => $box->url . ',' . $well->url);
	$session->value(q(SELECT nats_publish_outbox('t.relay', '1')));
	wait_until_drained($session);
	$box->silence;
	$session->value(q(SELECT nats_publish_outbox('t.relay', '2')));
	wait_until_drained($session);
	is(stored('t.relay', $other_client) . '; ' . stored('t.relay'), '1; 2', 'the relay leaves a server that says nothing');
	is($session->value('SELECT attempts FROM nats_outbox_dead'), '', 'and the row has not failed');
}

done_testing;
