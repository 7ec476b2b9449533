
# One message must hold up its subject and nothing else, whatever becomes of it, and what the relay executes for others
# gives them no rights.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my $nats = NatsServer->new(jetstream => 1, config => "max_payload: 100000\nmax_control_line: 1024")->start;
my $client = NatsClient->new(url => $nats->url);
$client->create_stream('W', ['w.>'], storage => 'file');
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.ack_timeout' => '3s',
	'log_statement' => 'none');
my $session = PsqlSession->new($node);
my $other = PsqlSession->new($node);
my $worker = relay_pid($session);

sub write_message { return write_to_outbox($session, @_); }

sub stored
{
	my ($stream, $subject) = @_;
	return map { $_->{payload} } grep { $_->{subject} eq $subject } NatsClient->new(url => $nats->url)->stream_messages($stream);
}

sub is_gone { return is_written_down($session, @_); }

# How long a message of another subject takes until it is stored and deleted, in seconds.
sub healthy_time
{
	my $started = time;
	my $id = write_message('w.healthy');
	wait_for('a healthy message', sub { is_gone($id) });
	return time - $started;
}

# ---- Ids that come again

{
	reconfigure($node, 'nats_publish.relay_max_attempts' => 1);
	foreach my $round (1, 2)
	{
		$session->value('TRUNCATE nats_outbox RESTART IDENTITY');
		write_message('w.large', 'x' x 100_001);
		write_message('w.small', $round);
		wait_until_drained($session);
	}
	is($session->value('SELECT string_agg(id::text, $$ $$), count(DISTINCT dead_id) FROM nats_outbox_dead'), '1 1|2', 'two dead messages may have had the same id');
	is_deeply([ stored('W', 'w.small') ], [ 1, 2 ], 'and hold up nothing');
	$session->value('UPDATE nats_outbox_dead SET payload = $$ok$$');
	is($session->value('SELECT nats_outbox_retry(1)'), 't', 'both can be brought back');
	wait_until_drained($session);
	is_deeply([ stored('W', 'w.large') ], [ 'ok', 'ok' ], 'and are published');
}

# ---- What can't be buried

{
	$session->value(q(ALTER TABLE nats_outbox_dead ADD CONSTRAINT refuse CHECK (subject <> 'w.refused')));
	my $refused = write_message('w.refused', 'x' x 100_001);
	ok(eval { wait_for('an error', sub { relay_column($session, 'last_error') =~ /violates check constraint "refuse"/ }) }, 'the relay tells of what it can not bury');
	my $dead = write_message('w.buried', 'x' x 100_001);
	wait_for('a burial', sub { $session->value("SELECT count(*) FROM nats_outbox_dead WHERE id = $dead") eq '1' });
	none_takes_longer(2, 'a message that can not be buried holds up neither others nor their burial', \&healthy_time,
		sub { $session->value("SELECT nats_outbox_retry($refused)") });
	is(outbox_column($session, 'attempts, left(last_error, 5), next_attempt_at IS NOT NULL', $refused), '0|54000|t', 'and is tried again');
	$session->value('ALTER TABLE nats_outbox_dead DROP CONSTRAINT refuse');
	$session->value("SELECT nats_outbox_retry($refused)");
	wait_until_drained($session);
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), '2', 'until it can');
	$session->value('TRUNCATE nats_outbox_dead');
	reconfigure($node, 'nats_publish.relay_max_attempts' => undef);
}

# ---- A message that is edited, or whose table is rewritten, while it is on its way

{
	healthy_time();
	$nats->stall;
	my $id = write_message('w.edited', 'old');
	wait_for_state($session, 'publishing');
	$session->value("UPDATE nats_outbox SET payload = 'new', msg_id = 'new' WHERE id = $id");
	$nats->resume;
	wait_until_drained($session);
	is_deeply([ stored('W', 'w.edited') ], [ 'old', 'new' ], 'an edited message is published as it is by then');

	$client->create_stream('V', ['v.>'], duplicate_window => 200_000_000);
	$nats->stall;
	write_message('v.rewritten');
	wait_for_state($session, 'publishing');
	$session->value('VACUUM FULL nats_outbox');
	$nats->resume;
	wait_until_drained($session);
	is_deeply([ stored('V', 'v.rewritten') ], ['x'], 'a message whose table was rewritten is published once');
}

# ---- A message that nobody answers, though somebody listens

{
	my $listener = NatsClient->new(url => $nats->url);
	$listener->subscribe('unanswered.>');
	reconfigure($node, 'nats_publish.relay_max_attempts' => 1);
	my @ids = split /\n/, $session->value(q(SELECT nats_publish_outbox('unanswered.' || i, 'x') FROM generate_series(1, 20) i));
	wait_for('an attempt', sub { $listener->next_message(1) });
	none_takes_longer(1, 'messages that nobody answers hold up no others', sub { map { healthy_time() } 1 .. 5 },
		sub { $session->value('SELECT nats_outbox_retry_all()') });
	wait_for('an attempt', sub { outbox_column($session, 'attempts', $ids[0]) >= 1 });
	like(outbox_column($session, 'last_error', $ids[0]), qr/^58030: no acknowledgment/, 'they may be stored');
	# behind the first one, a long line of its subject
	$session->value(q(SELECT count(nats_publish_outbox('unanswered.1', i::text)) FROM generate_series(1, 3000) i));
	wait_for('another attempt', sub { outbox_column($session, 'attempts', $ids[0]) >= 2 });
	none_takes_longer(2, 'nor do those that wait for them', \&healthy_time, sub { $session->value("SELECT nats_outbox_retry($ids[0])") });
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), '0', 'none is ever dead');
	$client->create_stream('U', ['unanswered.>']);
	$session->value('SELECT nats_outbox_retry_all()');
	wait_until_drained($session);
	is_deeply([ stored('U', 'unanswered.1') ], [ 'x', 1 .. 3000 ], 'and all are stored, in order, when there is a stream');
	reconfigure($node, 'nats_publish.relay_max_attempts' => undef);
}

# ---- Many messages for a stream that is missing

{
	$session->value(q(SELECT count(nats_publish_outbox('missing.' || i, 'x')) FROM generate_series(1, 20000) i));
	$session->value(q(SELECT count(nats_publish_outbox('absent.' || i, 'x')) FROM generate_series(1, 10) i));
	my $await_attempts = sub { wait_for('attempts', sub { $session->value('SELECT count(*) FROM nats_outbox WHERE attempts = 0') eq '0' }) };
	$await_attempts->();
	none_takes_longer(1, 'messages for a missing stream hold up no others', sub { map { healthy_time() } 1 .. 10 },
		sub { $session->value('SELECT nats_outbox_retry_all()'); $await_attempts->() });
	# what is on its way when we begin to count would be counted, too
	wait_for('a pause', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE next_attempt_at < now() + interval '30 s')) eq '0' });
	my $before = $session->value('SELECT sum(attempts) FROM nats_outbox');
	sleep 3;
	cmp_ok($session->value('SELECT sum(attempts) FROM nats_outbox') - $before, '<', 1000, 'and are not tried all the time');
	$client->create_stream('A', ['absent.>']);
	ok(eval { wait_for('ten messages', sub { $client->stream_info('A')->{state}{messages} == 10 }, 60) }, 'a stream that comes is found');
	$client->create_stream('M', ['missing.>']);
	ok(eval { wait_until_drained($session, 90) }, 'another one, too');
	is($client->stream_info('M')->{state}{messages}, 20_000, 'which then has all its messages');
}

# ---- When one that had failed is stored, the others that wait for a stream of that token do not wait for their times

{
	my @ids = split /\n/, $session->value(q(SELECT nats_publish_outbox('again.' || i, 'x') FROM generate_series(1, 10) i));
	wait_for('attempts', sub { $session->value('SELECT count(*) FROM nats_outbox WHERE attempts = 0') eq '0' });
	$session->value('SELECT nats_relay_pause()');
	wait_for_state($session, 'paused');
	# sooner than what is probed
	$session->value("UPDATE nats_outbox SET next_attempt_at = clock_timestamp() + interval '25 s', last_error = '58030: no acknowledgment'");
	$client->create_stream('AGAIN', ['again.>']);
	my $started = time;
	$session->value("SELECT nats_relay_resume(); SELECT nats_outbox_retry($ids[4])");
	wait_until_drained($session);
	cmp_ok(time - $started, '<', 20, 'once one that was not answered is stored, all are tried again');
	is($client->stream_info('AGAIN')->{state}{messages}, 10, 'and stored');
}

# ---- Rows that others have locked

{
	reconfigure($node, 'nats_publish.relay_poll_interval' => '200ms');
	my ($first, $next);
	# as none_takes_longer(): a busy machine holds up one message, and not that of each round
	foreach my $round (1 .. 3)
	{
		$session->value('SELECT nats_relay_pause()');
		wait_for_state($session, 'paused');
		my $locked = write_message('w.locked');
		$other->value("BEGIN; SELECT nats_outbox_retry($locked)");
		$session->value('SELECT nats_relay_resume()');
		wait_for('the message', sub { stored('W', 'w.locked') == $round });
		($first, $next) = (healthy_time(), healthy_time());
		$other->value('COMMIT');
		wait_until_drained($session);
		is(scalar(stored('W', 'w.locked')), $round, 'a message that is stored, and that somebody has locked, is published once');
		last if $first < 2 && $next < 1;
	}
	cmp_ok($first, '<', 2, 'and holds up no others');
	cmp_ok($next, '<', 1, 'nor the next ones');
	reconfigure($node, 'nats_publish.relay_poll_interval' => undef);
}

# ---- Times

{
	reconfigure($node, 'nats_publish.relay_poll_interval' => '1h');
	$session->value('SELECT nats_relay_pause()');
	wait_for_state($session, 'paused');
	my ($soon, $far) = split /\n/, $session->value(q(SELECT nats_publish_outbox('w.soon', 'x'); SELECT nats_publish_outbox('w.far', 'x')));
	my $started = time;
	$session->value("UPDATE nats_outbox SET attempts = 1, next_attempt_at = clock_timestamp() + CASE id WHEN $soon THEN interval '2 s' ELSE interval '1 year' END");
	$session->value('SELECT nats_relay_resume()');
	wait_until_drained($session);
	cmp_ok(time - $started, '<', 20, 'a message is tried when it is due, not when the relay looks by itself, nor in a year');
	cmp_ok(time - $started, '>=', 2, 'and not before');
	reconfigure($node, 'nats_publish.relay_poll_interval' => undef);
}

# ---- A message for which the server ends the connection

{
	reconfigure($node, 'nats_publish.ack_timeout' => '500ms');
	my $long = $session->value(q(SELECT nats_publish_outbox('w.' || repeat('a', 1500), 'x')));
	my $next = write_message('w.next');
	ok(eval { wait_for('another message', sub { is_gone($next) }, 60) }, 'a message for which the server ends the connection does not hold up others for good')
		or diag(relay_column($session, 'last_error'));
	wait_until_drained($session);
	like($session->value("SELECT last_error FROM nats_outbox_dead WHERE id = $long"), qr/the server ends the connection for this message/, 'and is given up');
	$session->value('TRUNCATE nats_outbox_dead');
	reconfigure($node, 'nats_publish.ack_timeout' => '3s');
}

# ---- Deletes that do not happen

{
	$session->value(q(CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
		CREATE TRIGGER keep BEFORE DELETE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION keep()));
	my $published = relay_column($session, 'published');
	my $attempts = q(SELECT sum(published) FROM nats_publish_stats WHERE mode = 'outbox');
	my $before = $session->value($attempts);
	write_message('w.kept');
	wait_for('an error', sub { relay_column($session, 'last_error') =~ /^message \d+ could not be deleted from nats_outbox/ });
	sleep 2;
	is(relay_column($session, 'state'), 'failing', 'a trigger that keeps what is stored is an error');
	is($session->value($attempts) - $before, 1, 'it is published once');
	is(relay_column($session, 'published'), $published, 'nothing counts as published');
	$session->value('DROP TRIGGER keep ON nats_outbox');
	$node->reload;
	wait_until_drained($session);
	is(scalar(stored('W', 'w.kept')), 1, 'and the message is stored once');
}

# ---- Payloads that the server does not take are not read

{
	my $before = process_memory($worker);
	my $peak = 0;
	$session->value('SELECT nats_relay_pause()');
	$session->value(q(SELECT count(nats_publish_outbox('w.huge.' || i, repeat('x', 60000000))) FROM generate_series(1, 5) i));
	$session->value('SELECT nats_relay_resume()');
	while ($session->value('SELECT count(*) FROM nats_outbox') > 0)
	{
		my $memory = process_memory($worker);
		$peak = $memory if $memory > $peak;
	}
	cmp_ok($peak - $before, '<', 30 * 1024, 'payloads of 60 MB are not read');
	is($session->value('SELECT count(*), min(last_error) FROM nats_outbox_dead') =~ /^5\|54000: .*max_payload is 100000/, 1, 'but buried');
	$session->value('TRUNCATE nats_outbox_dead');
}

is(relay_pid($session), $worker, 'all by the same worker');

# ---- Whose rights a trigger of the table has

{
	$session->value(q(CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app; CREATE TABLE who (name text); GRANT INSERT ON who TO app;
		ALTER TABLE nats_outbox OWNER TO app; ALTER TABLE nats_outbox_dead OWNER TO app; GRANT SELECT ON nats_control TO app));
	my $app = PsqlSession->new($node, user => 'app');
	$app->value(q(CREATE FUNCTION climb() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			ALTER ROLE app SUPERUSER;
			RETURN OLD;
		EXCEPTION WHEN insufficient_privilege THEN
			RETURN OLD;
		END $$;
		CREATE TRIGGER climb BEFORE DELETE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION climb();
		CREATE FUNCTION who_am_i() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO public.who VALUES (concat_ws(' ', current_user, nullif(current_setting('app.mark', true), '')));
			PERFORM set_config('app.mark', 'was here', false), set_config('search_path', 'public, pg_catalog', false);
			RETURN NULL;
		END $$;
		CREATE TRIGGER who_am_i AFTER DELETE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION who_am_i()));
	foreach (1, 2)
	{
		my $id = write_message('w.climb');
		wait_for('a delete', sub { is_gone($id) });
	}
	ok(eval { wait_until_drained($session, 20) }, 'a table that was given away is relayed') or diag(relay_column($session, 'last_error'));
	is($session->value('SELECT rolsuper FROM pg_roles WHERE rolname = $$app$$'), 'f', 'its owner does not become superuser by its triggers');
	is($session->value('SELECT string_agg(name, $$, $$) FROM who'), 'app, app', 'which are executed as the owner, whose settings do not stay');
}

# ---- The same, when functions write the tables for others

{
	my $rights = 'SELECT string_agg(rolname || CASE WHEN rolsuper THEN $$ super$$ ELSE $$$$ END, $$, $$ ORDER BY rolname) FROM pg_roles WHERE rolname IN ($$app$$, $$grave$$)';
	my $names = sub {
		my $names = $session->value('SELECT string_agg(DISTINCT name, $$, $$ ORDER BY name) FROM public.who');
		$session->value('TRUNCATE public.who');
		return $names;
	};
	$session->value(q(CREATE ROLE grave LOGIN; CREATE ROLE operator; GRANT CREATE ON SCHEMA public TO grave; GRANT INSERT ON who TO grave; TRUNCATE who;
		GRANT EXECUTE ON FUNCTION nats_outbox_retry(bigint), nats_outbox_retry_all(), nats_relay_pause(), nats_relay_resume() TO operator;
		SELECT nats_relay_pause();
		ALTER TABLE nats_outbox_dead OWNER TO grave; ALTER TABLE nats_control OWNER TO grave;
		GRANT SELECT ON nats_control TO app; GRANT INSERT, SELECT ON nats_outbox_dead TO app));
	foreach ([ app => 'nats_outbox', 'INSERT OR UPDATE' ], [ grave => 'nats_outbox_dead', 'DELETE' ], [ grave => 'nats_control', 'INSERT OR UPDATE' ])
	{
		my ($owner, $table, $events) = @$_;
		PsqlSession->new($node, user => $owner)->value(qq(
			CREATE FUNCTION climb_$table() RETURNS trigger LANGUAGE plpgsql AS \$\$
			BEGIN
				INSERT INTO public.who VALUES (current_user);
				ALTER ROLE $owner SUPERUSER;
				RETURN coalesce(NEW, OLD);
			EXCEPTION WHEN insufficient_privilege THEN
				INSERT INTO public.who VALUES (current_user);
				PERFORM set_config('search_path', 'pg_catalog', false);
				RETURN coalesce(NEW, OLD);
			END \$\$;
			CREATE TRIGGER climb_function BEFORE $events ON $table FOR EACH ROW EXECUTE FUNCTION climb_$table()));
	}
	my $bury = sub {
		$session->value(q(INSERT INTO nats_outbox_dead (id, subject, payload, msg_id, created_at, attempts, last_error, died_at)
			VALUES (70001, 'w.dead', NULL, 'dead again', now(), 3, NULL, now()),
				(70001, 'w.dead', repeat('x', 50000)::bytea, 'dead', now(), 3, '22023: x', now() - interval '1 hour')));
	};
	my $in_table = q(SELECT string_agg(concat_ws(' ', id = 70001, msg_id, length(payload), last_error), ', ' ORDER BY msg_id) FROM nats_outbox WHERE subject = 'w.dead');
	$bury->();
	is($session->value('SELECT nats_outbox_retry(70001)'), 't', 'messages are tried again');
	is($session->value($rights), 'app, grave', 'and no owner becomes superuser by a trigger');
	is($names->(), 'app, grave', 'which are executed as the owners');
	is($session->value($in_table), 't dead 50000 22023: x, f dead again', 'and they are as they were');
	$session->value(q(SELECT nats_outbox_retry(id) FROM nats_outbox));
	is($names->(), 'app', 'those that are not dead, too');
	$session->value('TRUNCATE nats_outbox');
	$bury->();
	is($session->value('SET ROLE operator; SELECT nats_outbox_retry_all(); RESET ROLE'), '2', 'all at once');
	is($session->value($rights), 'app, grave', 'by which none becomes superuser, either');
	is($names->(), 'app, grave', 'but is himself');
	$session->value('TRUNCATE nats_outbox');
	is($session->value('SET ROLE operator; SELECT nats_relay_resume(); SELECT nats_relay_pause(); RESET ROLE; SELECT bool_and(paused) FROM nats_control'), "\n\nt", 'pausing');
	$session->value('DELETE FROM nats_control; SELECT nats_relay_pause()');
	is($session->value('SELECT bool_and(paused) FROM nats_control'), 't', 'also the first time');
	is($session->value($rights), 'app, grave', 'makes no superuser');
	is($names->(), 'grave', 'and is done as the owner');
	$session->value('DROP TRIGGER climb_function ON nats_control');

	write_message('w.climb');
	is($names->(), 'app', 'writing a message is done as the owner');
	is($session->value('SHOW search_path'), '"$user", public', 'whose settings do not stay');
	PsqlSession->new($node, user => 'app')->value(q(DROP TRIGGER climb_function ON nats_outbox;
		CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON nats_outbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION climb_nats_outbox()));
	foreach (q(nats_publish_outbox('w.late', 'x')), 'nats_outbox_retry(min(id)) FROM nats_outbox')
	{
		is($session->sqlstate("SELECT $_"), '42501', "what the owner puts off is refused: $_");
		is($session->value($rights), 'app, grave', 'and has no rights of others');
	}
	$session->value('DROP TRIGGER late ON nats_outbox');

	# how DDL is published, written by a superuser
	$session->value('ALTER TABLE nats_published_ddl OWNER TO app; GRANT EXECUTE ON FUNCTION nats_check_ddl(text, text) TO app');
	PsqlSession->new($node, user => 'app')->value(q(CREATE TRIGGER climb_function BEFORE INSERT OR DELETE ON nats_published_ddl
		FOR EACH ROW EXECUTE FUNCTION climb_nats_outbox()));
	$names->();
	foreach (q(nats_publish_ddl('w.ddl', 'outbox')), q(nats_publish_ddl('w.ddl', 'outbox')), 'nats_unpublish_ddl()')
	{
		$session->value("SELECT $_");
		is($session->value($rights), 'app, grave', "$_ gives no rights");
		is($names->(), 'app', 'as it writes as the owner');
	}
	is($session->value('SHOW search_path'), '"$user", public', 'whose settings do not stay');
	$session->value('DROP TRIGGER climb_function ON nats_published_ddl');

	# and read, with a policy of the owner
	PsqlSession->new($node, user => 'app')->value(q(CREATE TABLE late (i int);
		CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION climb_nats_outbox();
		CREATE FUNCTION see() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.late VALUES (1); RETURN true; END$$;
		CREATE POLICY see ON nats_published_ddl FOR SELECT USING (see());
		CREATE POLICY write ON nats_published_ddl FOR INSERT WITH CHECK (true);
		CREATE POLICY empty ON nats_published_ddl FOR DELETE USING (true);
		ALTER TABLE nats_published_ddl FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY));
	$session->value(q(SELECT nats_publish_ddl('w.ddl', 'outbox')));
	is($session->sqlstate('CREATE TABLE told (i int)'), '42501', 'how DDL is published is read in a restricted operation, too');
	is($session->value($rights), 'app, grave', 'and gives no rights');
	$session->value('ALTER TABLE nats_published_ddl NO FORCE ROW LEVEL SECURITY');
	is($session->sqlstate('CREATE TABLE told (i int)'), '', 'without the policy it is published');
	$session->value('TRUNCATE nats_outbox; SELECT nats_unpublish_ddl()');

	# by the relay, which buries what can't be published, and reads whether it is paused
	PsqlSession->new($node, user => 'grave')->value(q(CREATE TRIGGER climb_insert BEFORE INSERT ON nats_outbox_dead FOR EACH ROW EXECUTE FUNCTION climb_nats_outbox_dead()));
	reconfigure($node, 'nats_publish.relay_max_attempts' => 1);
	$session->value('SELECT nats_relay_resume()');
	$names->();
	write_message('w.buried', 'x' x 100_001);
	wait_until_drained($session);
	is($session->value(q(SELECT subject, length(payload), attempts FROM nats_outbox_dead)), 'w.buried|100001|1', 'what the relay buries is as it was');
	is($names->(), 'app, grave', 'and is deleted and buried as the owners');
	my $offset = log_length($node);
	PsqlSession->new($node, user => 'grave')->value(q(ALTER TABLE nats_control RENAME TO real_control;
		CREATE FUNCTION tell() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE LOG 'told as %', current_user; RETURN false; END$$;
		CREATE VIEW nats_control AS SELECT tell() AS paused));
	write_message('w.told');
	wait_until_drained($session);
	my @told = log_lines($node, $offset, qr/told as/);
	ok(@told > 0, 'a view in the place of nats_control is read');
	is_deeply([ grep { !/told as grave/ } @told ], [], 'as its owner');
	is($session->value($rights), 'app, grave', 'and nobody is superuser');
	$session->value('DROP VIEW nats_control; ALTER TABLE real_control RENAME TO nats_control');
	reconfigure($node, 'nats_publish.relay_max_attempts' => undef);
}

# ---- Columns of other types, for which somebody has to make the trigger anew

{
	my $trigger = 'CREATE TRIGGER nats_outbox_check BEFORE INSERT OR UPDATE OF subject, payload, headers, msg_id ON nats_outbox FOR EACH ROW EXECUTE FUNCTION nats_outbox_check()';
	my $row = q(INSERT INTO nats_outbox (subject, headers) VALUES ('w.x', '(1,2)'));
	$session->value('SELECT nats_relay_pause(); DROP TRIGGER nats_outbox_check ON nats_outbox');
	$session->value('ALTER TABLE nats_outbox DROP COLUMN headers; ALTER TABLE nats_outbox ADD COLUMN headers point');
	$session->value("BEGIN; $trigger");
	is($session->sqlstate($row), '42804', 'a row whose headers are a point');
	$session->value('ROLLBACK');
	$session->value($row);
	$session->value('SELECT nats_relay_resume()');
	ok(eval { wait_for('an error', sub { relay_column($session, 'last_error') =~ /cannot cast type point to jsonb/ }) }, 'the relay says so, too');
	$session->value('ALTER TABLE nats_outbox DROP COLUMN headers; ALTER TABLE nats_outbox ADD COLUMN headers jsonb');
	$session->value($trigger);
	ok(eval { wait_until_drained($session, 30) }, 'and goes on when that is mended');
}

is_deeply([ log_lines($node, 0, qr/PANIC|terminated by signal/) ], [], 'nothing has crashed');

done_testing();
