
# Errors that need a server of a special kind: the SQLSTATE of each, and that the session goes on.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use NatsClient;
use NatsServer;
use SilentProxy;
use PsqlSession;
use PublishTest;

my $BOUND = 20;

my $nats = NatsServer->new(jetstream => 1, config => <<'END')->start;
authorization {
	users = [
		{ user: admin, password: a }
		{ user: any_inbox, password: p, permissions: { publish: { allow: ["t.>"] }, subscribe: { allow: ["_INBOX.>"] } } }
		{ user: own_inbox, password: p, permissions: { publish: { allow: ["t.>"] }, subscribe: { allow: ["_PG.>"] } } }
		{ user: no_inbox, password: p, permissions: { publish: { allow: ["t.>"] }, subscribe: { deny: [">"] } } }
		{ user: nothing, password: p, permissions: { publish: { deny: [">"] } } }
	]
}
END
my $admin = NatsClient->new(url => $nats->url, user => 'admin', pass => 'a');
$admin->create_stream('T', [ 't.>', 'x.>' ]);
my $node = publishing_node('main');
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');

sub session_as
{
	my ($user, %settings) = @_;
	my $password = $user eq 'admin' ? 'a' : 'p';
	return PsqlSession->new($node,
		settings => { 'nats_publish.url' => "nats://$user:$password\@127.0.0.1:" . $nats->port, %settings });
}

sub session_to
{
	my ($url, %settings) = @_;
	return PsqlSession->new($node, settings => { 'nats_publish.url' => $url, %settings });
}

my $GOES_ON = q(SELECT (nats_publish('t.a', 'x')).stream);

sub connects { return $_[0]->value('SELECT connects, connections_lost FROM nats_session_stats()'); }

# A server that maps subjects tells of what it has made of one, and not of which message

{
	my $mapping = NatsServer->new(jetstream => 1, config => <<'END')->start;
mappings = { "orders.*": "prod.orders.$1" }
authorization { users = [ { user: u, password: p, permissions: { publish: { allow: ["orders.>"] } } } ] }
END
	my $session = session_to('nats://u:p@127.0.0.1:' . $mapping->port, 'nats_publish.ack_timeout' => '1s');
	my $result = $session->run(q(SELECT nats_publish('orders.new', 'x')));
	is($result->{sqlstate}, '58030', 'a denied subject that was mapped is not answered');
	like($result->{error}, qr/^DETAIL:  .*The server said meanwhile: Permissions Violation for Publish to "prod\.orders\.new"/m, 'what the server said is told');
	unlike($session->run(q(SELECT nats_publish('orders.a.b', 'x')))->{error}, qr/prod/, 'but not with later messages');
}

# Subjects that the NATS user may not publish to

my $session = session_as('any_inbox', 'nats_publish.ack_timeout' => '60s');
is($session->value($GOES_ON), 'T', 'what is permitted');
foreach my $subject ('x.a', 'x.qu"ote', 'x.back\\slash', "x.ap'o", 'x.%s%n', "x.\xc3\xa4", 'x.a', 'x.' . 'y' x 200, 'x.*a',
	"x.\xe2\x80\x8b", "x.\xc2\xa0", "x.a\xf3\xa0\x80\x81b\\u200b")
{
	my $literal = $subject =~ s/'/''/gr;
	my $result = $session->run("SELECT nats_publish('$literal', 'x')");
	is($result->{sqlstate}, '42501', "no permission for $subject: nats_publish()");
	like($result->{error}, qr/"\Q$subject\E"/, 'names the subject');
	cmp_ok($result->{seconds}, '<', $BOUND, 'without waiting for an acknowledgment');
	$result = $session->run("BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_async('$literal', 'x') > 0; COMMIT");
	is("$result->{sqlstate} $result->{output}", '42501 t', 'nats_publish_async(): at COMMIT');
	like($result->{error}, qr/"\Q$subject\E"/, 'names the subject');
}
my $result = $session->run(q(BEGIN; INSERT INTO t VALUES (1);
	SELECT count(*) FROM (SELECT nats_publish_async('t.ok', 'x')) s;
	SELECT count(*) FROM (SELECT nats_publish_async('x.' || i, 'x') FROM generate_series(1, 20) i) s;
	SELECT count(*) FROM (SELECT nats_publish_async('t.ok', 'x')) s;
	SELECT nats_publish_async('x.1', 'again') > 0; COMMIT));
is($result->{sqlstate}, '42501', 'many of them in a transaction');
like($result->{error}, qr/could not publish 21 messages/, 'are counted');
like($result->{error}, qr/"x\.1".*\n.*"x\.2".*\n.*"x\.3"/, 'and the first ones listed in order');
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '0', 'no row was committed');
$result = $session->run(q(BEGIN; SELECT nats_publish_async('x.a', 'x') AS future \gset
	SELECT nats_await(:future)));
is($result->{sqlstate}, '42501', 'nats_await()');
is($session->sqlstate(q(ROLLBACK; BEGIN; SELECT nats_publish_async('x.a', 'x'); SELECT nats_flush())), '42501', 'nats_flush()');
$session->run('ROLLBACK');
$result = $session->run(q(BEGIN; SELECT nats_publish_async('x.a', 'x', critical => false) > 0; SELECT nats_flush(); COMMIT));
is($result->{sqlstate}, '', 'nothing without critical');
like($result->{error}, qr/^WARNING:  42501: .*"x\.a"/m, 'but a WARNING');
is($session->value(q(BEGIN; SAVEPOINT s; SELECT nats_publish_async('x.a', 'x') > 0; ROLLBACK TO s;
	SELECT nats_publish_async('t.a', 'x') > 0; COMMIT)), "t\nt", 'nothing after ROLLBACK TO SAVEPOINT');
is($session->sqlstate(q(SELECT nats_stream_info('T'))), '42501', 'a JetStream request without permission');
is($session->value($GOES_ON), 'T', 'the session goes on');
is(connects($session), '1|0', 'over one connection');
is($session->sqlstate(q(SELECT nats_publish('x.a', 'x'))), '42501', 'an error that is over is that of no later message');
is($session->value($GOES_ON), 'T', 'so this works');

# The inbox

$session = session_as('own_inbox');
$result = $session->run($GOES_ON);
is($result->{sqlstate}, '42501', 'no permission for the inbox');
like($result->{error}, qr/nats_publish\.inbox_prefix/, 'names the setting');
$session->value(q(SET nats_publish.inbox_prefix = '_PG.db1'));
is($session->value($GOES_ON), 'T', 'with an inbox of its own everything works');
is($session->value(q(BEGIN; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 100); COMMIT)), '100', 'async too');
is($session->sqlstate(q(SELECT nats_publish('x.a', 'x'))), '42501', 'but what is not permitted');
is($session->value('SELECT server_name FROM nats_server_info()'), 'nats1', 'nats_server_info() needs no permission');
is(session_as('own_inbox', 'nats_publish.inbox_prefix' => '_PG')->value($GOES_ON), 'T', 'from the start');
is(session_as('no_inbox')->sqlstate($GOES_ON), '42501', 'no permission for any inbox');
is(session_as('nothing')->sqlstate($GOES_ON), '42501', 'no permission for anything');
$result = session_as('own_inbox')->run(q(SELECT nats_publish_async('t.a', 'x', critical => false) IS NULL));
like($result->{error}, qr/^WARNING:  42501: /m, 'a WARNING without critical');

# A permission that is withdrawn from a live session
$session = session_as('any_inbox');
is($session->value($GOES_ON), 'T', 'permitted');
my $before = $nats->{config};
$nats->set_config($before =~ s/any_inbox(.*?)\["t\.>"\]/any_inbox$1\["u.>"]/r, reload => 1);
wait_for('the new permission', sub { $session->sqlstate($GOES_ON) eq '42501' });
$nats->set_config($before, reload => 1);
wait_for('the old permission', sub { $session->sqlstate($GOES_ON) eq '' });
ok(1, 'permissions may change while a session lives');

# A password that is changed under a live session
$nats->set_config($before =~ s/(any_inbox, password:) p/$1 q/r, reload => 1);
wait_for('the refusal', sub { $session->sqlstate($GOES_ON) eq '28000' });
$nats->set_config($before, reload => 1);
is($session->value($GOES_ON), 'T', 'a session whose credentials were refused for a while');

# Streams

# a session of its own, whose connection is lost if a slow server needs more than a quarter of the time for a PONG
my $in_vain = session_as('admin');
$in_vain->value($GOES_ON);
$admin->create_stream('NOACK', ['noack.>'], no_ack => \1);
$result = $in_vain->run(q(SET nats_publish.ack_timeout = '500ms'; SELECT nats_publish('noack.a', 'x')));
is($result->{sqlstate}, '58030', 'a stream that does not acknowledge');
like($result->{error}, qr/^HINT: .*msg_id/m, 'a hint');
is($in_vain->sqlstate(q(SET nats_publish.commit_timeout = '500ms'; BEGIN; SELECT nats_publish_async('noack.a', 'x'); COMMIT)), '58030',
	'at COMMIT');
is($in_vain->value("RESET nats_publish.ack_timeout; $GOES_ON"), 'T', 'the session goes on');

$session = session_as('admin');
$admin->create_stream('FULL', ['full.>'], max_msgs => 2, discard => 'new');
is($session->value(q(SELECT (nats_publish('full.a', 'x')).seq FROM generate_series(1, 2))), "1\n2", 'a stream becomes full');
$result = $session->run(q(SELECT nats_publish('full.a', 'x')));
is($result->{sqlstate}, '53400', 'and is full');
like($result->{error}, qr/maximum messages exceeded.*10077/, 'the reason is that of JetStream');
is($session->sqlstate(q(BEGIN; SELECT nats_publish_async('full.a', 'x'); COMMIT)), '53400', 'at COMMIT');
$admin->purge('FULL');
is($session->value(q(SELECT (nats_publish('full.a', 'x')).seq)), '3', 'until there is room');
$admin->create_stream('FULLBYTES', ['fullbytes.>'], max_bytes => 1000, discard => 'new');
is($session->sqlstate(q(SELECT nats_publish('fullbytes.a', repeat('x', 900)) FROM generate_series(1, 3))), '53400', 'max_bytes');

$admin->create_stream('SMALL', ['small.>'], max_msg_size => 100);
$result = $session->run(q(SELECT nats_publish('small.a', repeat('x', 101))));
is($result->{sqlstate}, '54000', 'max_msg_size of the stream');
is($session->sqlstate(q(BEGIN; SELECT nats_publish_async('small.a', repeat('x', 101)); COMMIT)), '54000', 'at COMMIT');
is($session->sqlstate(q(SELECT nats_publish('small.a', 'x'))), '', 'a smaller one');

# another domain's stream has half a second to take it, before which nobody knows
$session->value(q(SET nats_publish.ack_timeout = '5s'));
$result = $session->run(q(SELECT nats_publish('t.a', 'x', expect_stream => 'OTHER')));
is($result->{sqlstate}, '40001', 'another stream than expected');
is($session->sqlstate(q(BEGIN; SELECT nats_publish_async('t.a', 'x', expect_stream => 'OTHER'); COMMIT)), '40001', 'at COMMIT');
my $last = $admin->stream_info('T')->{state}{last_seq};
$result = $session->run(q(SELECT nats_publish('t.a', 'x', expect_last_seq => 1)));
is($result->{sqlstate}, '40001', 'another sequence than expected');
like($result->{error}, qr/wrong last sequence: $last\b/, 'and the one that it is');
is($session->sqlstate(q(SELECT nats_publish('t.new', 'x', expect_last_subject_seq => 1))), '40001', 'likewise for a subject');
is($session->sqlstate(qq(SELECT nats_publish('t.a', 'x', expect_last_seq => $last, expect_stream => 'T'))), '', 'the right ones');

$admin->create_stream('SEALED', ['sealed.>']);
$admin->js('STREAM.UPDATE.SEALED', { %{ $admin->stream_info('SEALED')->{config} }, sealed => \1 });
$result = $session->run(q(SELECT nats_publish('sealed.a', 'x')));
is($result->{sqlstate}, '38000', 'any other error of JetStream');
like($result->{error}, qr/\b10109\b/, 'with its code');

$result = $session->run(q(SELECT nats_publish('nowhere.a', 'x')));
is($result->{sqlstate}, '42704', 'no stream takes the subject');
like($result->{error}, qr/^HINT: .*nats_create_stream/m, 'a hint');
$result = $session->run(q(BEGIN; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 10);
	SELECT nats_publish_async('nowhere.b', 'x') > 0; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 10); COMMIT));
is($result->{sqlstate}, '42704', 'one such message among others, at COMMIT');
like($result->{error}, qr/could not publish to "nowhere\.b"/, 'is the one that failed');
$result = $session->run(q(BEGIN; SELECT nats_publish_async('t.late', 'x') FROM nats_publish_async('late.a', 'x')));
$admin->create_stream('LATE', ['late.>']);
is($session->sqlstate('COMMIT'), '', 'a stream that is created in time takes the message');
is($admin->stream_info('LATE')->{state}{messages}, 1, 'once');
is($session->sqlstate(q(SELECT nats_stream_info('NONE'))), '42704', 'no such stream');
is($session->sqlstate(q(SELECT nats_get_message('T', 100000))), '42704', 'no such message');
is($session->sqlstate(q(SELECT nats_jetstream('STREAM.DELETE.NONE'))), '42704', 'not found');
is($session->sqlstate(q(SELECT nats_jetstream('STREAM.CREATE.T', '{"name":"U"}'))), '38000', 'another API error');
$result = $in_vain->run(q(SET nats_publish.ack_timeout = '300ms'; SELECT nats_jetstream('NO.SUCH.API')));
like($result->{sqlstate}, qr/^(58000|0A000|38000)$/, 'an API that there is not');
cmp_ok($result->{seconds}, '<', $BOUND, 'in bounded time');
if ($admin->info->{version} =~ /^2\.(\d+)\./ && $1 < 11)
{
	$result = $session->run(q(SELECT nats_publish('t.ttl', 'x', ttl => '1 h')));
	is($result->{sqlstate}, '0A000', 'ttl needs a newer server');
	like($result->{error}, qr/ttl needs nats-server 2\.11/, 'which is said');
}
else
{
	is($session->sqlstate(q(SELECT nats_publish('t.ttl', 'x', ttl => '1 h'))), '0A000', 'ttl, which the stream does not allow');
}
is($session->value(q(SELECT count(*) FROM jsonb_path_query(nats_stream_info('T'), '$.state.subjects."t.ttl"'))), '0',
	'and nothing is stored');
is($session->value($GOES_ON), 'T', 'the session goes on');
is(connects($session), '1|0', 'over one connection');

# A server without JetStream

my $plain = NatsServer->new(name => 'plain')->start;
$session = session_to($plain->url);
$result = $session->run($GOES_ON);
like($result->{sqlstate}, qr/^(42704|0A000)$/, 'a server without JetStream takes no message');
cmp_ok($result->{seconds}, '<', $BOUND, 'in bounded time');
is($session->sqlstate(q(BEGIN; SELECT nats_publish_async('t.a', 'x'); COMMIT)), $result->{sqlstate}, 'at COMMIT');
is($session->sqlstate(q(SELECT nats_jetstream('INFO'))), '0A000', 'and answers no request');
is($session->sqlstate(q(SELECT nats_create_stream('T', '{t.>}'))), '0A000', 'nor creates a stream');
is($session->value('SELECT jetstream FROM nats_server_info()'), 'f', 'as nats_server_info() tells');

# An account without JetStream, and one with little of it

my $store = PostgreSQL::Test::Utils::tempdir('accounts');
my $accounts = NatsServer->new(name => 'accounts', config => <<"END")->start;
jetstream { store_dir: "$store", max_mem: 1M, max_file: 10M }
accounts {
	NONE { users = [ { user: none, password: p } ] }
	LITTLE { jetstream { max_mem: 20000, max_file: 20000 }, users = [ { user: little, password: p } ] }
	MUCH { jetstream: enabled, users = [ { user: much, password: p } ] }
}
END
sub session_of
{
	my ($user) = @_;
	return session_to("nats://$user:p\@127.0.0.1:" . $accounts->port);
}
$session = session_of('none');
like($session->sqlstate($GOES_ON), qr/^(42704|0A000)$/, 'an account without JetStream');
is($session->sqlstate(q(SELECT nats_jetstream('INFO'))), '0A000', 'answers so');

foreach my $storage ('memory', 'file')
{
	my $little = NatsClient->new(url => $accounts->url, user => 'little', pass => 'p');
	$little->create_stream("L$storage", ["$storage.>"], storage => $storage);
	$session = session_of('little');
	$result = $session->run(qq(SELECT nats_publish('$storage.a', repeat('x', 9000)) FROM generate_series(1, 4)));
	is($result->{sqlstate}, '53000', "the account's limit of $storage storage") or diag $result->{error};
	is($session->sqlstate(qq(BEGIN; SELECT nats_publish_async('$storage.a', repeat('x', 9000)) FROM generate_series(1, 4); COMMIT)),
		'53000', 'at COMMIT');
	$little->purge("L$storage");
	is($session->value(qq(SELECT (nats_publish('$storage.a', 'x')).stream)), "L$storage", 'until there is room');
}
$session = session_of('much');
NatsClient->new(url => $accounts->url, user => 'much', pass => 'p')->create_stream('M', ['m.>']);
$result = $session->run(q(SELECT nats_publish('m.a', repeat('x', 100000)) FROM generate_series(1, 20)));
is($result->{sqlstate}, '53000', 'the memory limit of the server') or diag $result->{error};

# Small limits of the protocol

my $small = NatsServer->new(name => 'small', jetstream => 1, config => "max_payload: 2000\nmax_control_line: 512")->start;
NatsClient->new(url => $small->url)->create_stream('T', ['t.>']);
$session = session_to($small->url, 'nats_publish.ack_timeout' => '2s', 'nats_publish.commit_timeout' => '2s');
is($session->value($GOES_ON), 'T', 'a server with small limits');
is($session->value('SELECT max_payload FROM nats_server_info()'), '2000', 'which it tells');
foreach my $sql (
	q(SELECT nats_publish('t.a', repeat('x', 2001))),
	q(SELECT nats_publish('t.a', repeat('x', 1990))),    # with its headers
	q(SELECT nats_publish_async('t.a', repeat('x', 2001))),
	q(SELECT nats_publish_async('t.a', repeat('x', 2001), critical => false)))
{
	$result = $session->run($sql);
	is($result->{sqlstate}, '54000', $sql);
	like($result->{error}, qr/\b20\d\d bytes.*\b2000\b/, 'is told with both sizes');
}
is($session->value(q(SET nats_publish.auto_msg_id = off; SELECT (nats_publish('t.a', repeat('x', 2000))).stream)), 'T', 'the largest');
$session->value('RESET nats_publish.auto_msg_id');
is($session->value($GOES_ON), 'T', 'the session goes on');
is(connects($session), '1|0', 'over one connection');

$result = $session->run(q(BEGIN; SELECT nats_publish('t.' || repeat('y', 600), 'x')));
like($result->{sqlstate}, qr/^(580[03]0|54000)$/, 'a subject over max_control_line, which no server tells');
like($result->{error}, qr/control line/i, 'the reason is the server\'s') or diag $result->{error};
cmp_ok($result->{seconds}, '<', $BOUND, 'in bounded time');
is($session->value("ROLLBACK; $GOES_ON"), 'T', 'the session goes on');
$result = $session->run(q(BEGIN; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 10);
	SELECT nats_publish_async('t.' || repeat('y', 600), 'x') > 0; COMMIT));
like($result->{sqlstate}, qr/^(580[03]0|54000)$/, 'at COMMIT');
cmp_ok($result->{seconds}, '<', $BOUND, 'in bounded time');
is($session->value($GOES_ON), 'T', 'the session goes on');

# A server that becomes smaller under a live session
my $shrinking = NatsServer->new(name => 'shrinking', jetstream => 1)->start;
NatsClient->new(url => $shrinking->url)->create_stream('T', ['t.>']);
$session = session_to($shrinking->url);
is($session->value($GOES_ON), 'T', 'a server');
$shrinking->set_config('max_payload: 1000', reload => 1);
$result = $session->run(q(SELECT nats_publish('t.a', repeat('x', 2000))));
is($result->{sqlstate}, '54000', 'whose max_payload was lowered while the session was idle') or diag $result->{error};
$shrinking->set_config('max_payload: 3000', reload => 1);
$result = $session->run(q(SELECT nats_publish('t.a', repeat('x', 2000))));
is($result->{sqlstate}, '', 'or raised') or diag $result->{error};
$shrinking->restart(stop => 'kill9');
$result = $session->run(q(SELECT nats_publish_on_commit('t.a', repeat('x', 4000))));
is($result->{sqlstate}, '54000', 'and of one that was restarted meanwhile') or diag $result->{error};

# What is told for certain is true: nothing is stored of a message that COMMIT has told to be refused or not sent. The
# servers here are fakes, which hold back what real ones are just slow with.

my %PATIENTLY = map { ("nats_publish.${_}_timeout" => '20s') } qw(ack commit connect);
# where COMMIT waits in vain
my %BRIEFLY = ('nats_publish.ack_timeout' => '700ms', 'nats_publish.commit_timeout' => '700ms', 'nats_publish.connect_timeout' => '2s');

sub stores { my ($peer, $command) = @_; return $peer->reply($command, '{"stream":"T","seq":' . ++$peer->{stored} . '}'); }

# COMMIT at such a server: its SQLSTATE and the counts that it tells, what it says, the session.
sub commit_at
{
	my ($fake, $sql, %settings) = @_;
	my $at = session_to($fake->url, %PATIENTLY, %settings);
	my $failed = $at->run("BEGIN; $sql; COMMIT");
	my ($counts) = $failed->{error} =~ /Of the transaction's messages: (.*)\.$/m;
	note($failed->{error});
	return ("$failed->{sqlstate}, " . ($counts // 'no counts'), $failed->{error}, $at);
}
sub told { my ($on_publish, @more) = @_; return (commit_at(FakeServer->answering($on_publish), @more))[0]; }

# A second attempt waits behind others in the backend, and goes out when a slow link has taken these.
{
	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			$peer->note($command->{subject});
			return stores(@_) if $command->{subject} ne 't.again' || $peer->{again}++;
			return $peer->reply($command, '', ' 503');
		});
	my $box = SilentProxy->new($fake, buffer => 8192);
	$box->slow(100_000);
	my ($told, $error, $at) = commit_at($box, q(SELECT nats_publish_async('t.again', 'x') \g /dev/null
		SELECT count(nats_publish_async('t.much', repeat('x', 1000000))) FROM generate_series(1, 12)),
		'nats_publish.ack_timeout' => '4s', 'nats_publish.commit_timeout' => '4s');
	like($told, qr/^58030/, 'a message that is to be sent again over a slow link: it may be stored');
	$box->pass;
	$at->value(q(SET nats_publish.ack_timeout = '60s'; SELECT nats_publish('t.next', 'x')));
	my $sent = 0;
	while (($_ = $fake->next_event // 't.next') ne 't.next') { $sent++ if $_ eq 't.again'; }
	is($sent, 2, 'as it is sent then');
}

# The server refuses one of two messages to a subject before it acknowledges the other one.
{
	my $deny = sub { my ($peer, $command) = @_; return $peer->send(qq(-ERR 'Permissions Violation for Publish to "$command->{subject}"'\r\n)); };
	foreach my $stored (0, 1)
	{
		my @published;
		my $one_of_two = sub
		{
			my ($peer, $command) = @_;
			return if push(@published, $command) < 2;
			$deny->($peer, $command);
			sleep 0.2;
			return stores($peer, $published[$stored]);
		};
		is(told($one_of_two, q(SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 2))),
			'42501, 1 stored, 1 failed, 0 not sent', "of two messages to a subject one is not permitted, and message $stored is stored");
	}
	my (undef, $error) = commit_at(FakeServer->answering($deny), q(SELECT count(nats_publish_async('t.' || i % 2, 'x')) FROM generate_series(1, 4000) i));
	like($error, qr/42501: could not publish 4000 messages/, 'and none of many, to two subjects');
}

# A message that was sent, and can't be sent again
{
	my $leave = sub { my ($peer, $command, $number) = @_; return $number == 1 ? $peer->close : stores($peer, $command); };
	is(told($leave, q(SELECT nats_publish_async('t.a', 'x')), 'nats_publish.auto_msg_id' => 'off'),
		'58030, no counts', 'a lost connection, and a message without an id: it may be stored');
	is(told($leave, q(SELECT nats_publish_async('t.a', 'x'); SET LOCAL nats_publish.inbox_prefix = '_OTHER'; SELECT nats_publish_async('t.b', 'x'))),
		', no counts', 'a lost connection, and then another inbox: each is acknowledged at its own');
}

# The largest message was stored before the limit was lowered, and the connection is lost for one that is sent again.
{
	my $limit = sub
	{
		my ($peer, $command, $number) = @_;
		return stores($peer, $command) if $number > 1;
		return if $command->{subject} eq 't.large';
		return $peer->{again}++ ? $peer->leave("-ERR 'Maximum Payload Violation'\r\n") : $peer->reply($command, '', ' 503');
	};
	is(told($limit, q(SELECT nats_publish_async('t.small', repeat('x', 500)), nats_publish_async('t.large', repeat('x', 1000))), %BRIEFLY),
		'58030, 1 stored, 1 failed, 0 not sent', 'a message over max_payload that is not the last one sent: it may be stored');
}

# The next server does not tell whether it knows TTLs: it takes no third connection, nor any after that.
{
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			return if $number > 3;
			$peer->handshake(version => '"2.11.0"');
			while (my $command = $peer->next_command) { return if $command->{verb} eq 'PUB'; }
			return;
		});
	is((commit_at($fake, q(SELECT nats_publish_async('t.a', 'x', ttl => '1 h')), %BRIEFLY))[0], '58030, no counts',
		'a lost connection, a TTL, and a server that does not tell its version: it may be stored');
}

# A member of an atomic batch is refused; another one is stored by itself, by the leader of a stream that knows no batches.
{
	my $mixed = sub
	{
		my ($peer, $command) = @_;
		return stores($peer, $command) if $command->{batch}{commit};
		return $peer->reply($command, '{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"},"stream":"T","seq":0}');
	};
	is((commit_at(FakeServer->answering($mixed, version => '"2.12.0"'),
			q(SELECT nats_publish_on_commit('t.a', 'x', expect_last_seq => 1), nats_publish_on_commit('t.b', 'x')),
			'nats_publish.commit_batch' => 'atomic'))[0],
		'58030, no counts', 'a batch of which a part may be stored');
}

# An error of COMMIT about something other than what was sent
{
	my $lose = sub { my ($peer, $command, $number) = @_; return ++$peer->{count} == 10 || $number > 1 ? $peer->close : 0; };
	my @thirty = (q(SELECT count(nats_publish_on_commit('t.a', 'x')) FROM generate_series(1, 30)), 'nats_publish.max_pending' => 10);
	is(told($lose, @thirty, %BRIEFLY), '58030, 0 stored, 11 failed, 19 not sent', 'a connection that is lost again and again, and a full window: some may be stored');
	my $wait = sub { my ($peer, $command) = @_; push @{ $peer->{waiting} }, $command; return if @{ $peer->{waiting} } < 10; sleep 0.2; stores($peer, $_) foreach @{ $peer->{waiting} }; return; };
	is(told($wait, @thirty, 'nats_publish.on_full' => 'error'), '53000, 10 stored, 1 failed, 19 not sent', 'a window that is full');

	$node->safe_psql('postgres', q(CREATE SERVER nowhere FOREIGN DATA WRAPPER nats OPTIONS (url 'nats://127.0.0.1:1');
		CREATE USER MAPPING FOR PUBLIC SERVER nowhere));
	my $two = q(SELECT nats_publish_async('t.a', 'x'); SET LOCAL nats_publish.server = 'nowhere'; SELECT nats_publish_on_commit('t.b', 'x'));
	is(told(\&stores, $two), '58000, 1 stored, 0 failed, 1 not sent', 'the second of two servers is not there');
	is(told(sub { }, $two, %BRIEFLY), '58030, 0 stored, 1 failed, 1 not sent', 'and the first one does not answer');
	my $large = q(SELECT nats_publish_async('t.a', 'x'), nats_publish_on_commit('t.b', repeat('x', 1000), ttl => '1 h'));
	is(told(\&stores, $large), '0A000, 1 stored, 0 failed, 1 not sent', 'a server that lacks a feature');
	is(told(\&stores, $large, 'nats_publish.commit_batch' => 'atomic'), '0A000, 1 stored, 1 failed, 0 not sent', 'or knows no batches');
}

# An acknowledgment that can't be noted is not counted again when the message is sent again.
{
	my $again = sub
	{
		my ($peer, $command, $number) = @_;
		return stores($peer, $command) if $number > 1;
		return if push(@{ $peer->{waiting} }, $command) < 400;
		$peer->reply($_, '{"stream":"' . 'T' x 250 . '","seq":1}') foreach @{ $peer->{waiting} };
		sleep 1.5;
		return $peer->close;
	};
	my ($fake, $silent) = (FakeServer->answering($again), FakeServer->answering(sub { }));
	my $url = $silent->url;
	$node->safe_psql('postgres', "CREATE SERVER silent FOREIGN DATA WRAPPER nats OPTIONS (url '$url'); CREATE USER MAPPING FOR PUBLIC SERVER silent");
	my $failed = session_to($fake->url, %BRIEFLY, 'nats_publish.commit_timeout' => '4s', temp_file_limit => 0, work_mem => '64kB')
		->run(q(BEGIN; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 400) \g /dev/null
			SAVEPOINT s; SELECT nats_flush() \g /dev/null
			ROLLBACK TO s; SET temp_file_limit = -1; SET LOCAL nats_publish.server = 'silent'; SELECT nats_publish_async('t.b', 'x') \g /dev/null
			COMMIT));
	my @states = $failed->{error} =~ /^ERROR:  (\w{5})/mg;
	is("@states", '53400 58030', 'the message that nobody acknowledges is waited for') or diag($failed->{error});
}

done_testing();
