
# What is stored is deleted where it was read, but only if that row is still there, and only if a DELETE would do nothing else:
# triggers, rules, policies and publications of the table have their say.

use strict;
use warnings FATAL => 'all';

use Test::More;

use NatsClient;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('D', ['d.>']);
my $node = relay_node('main',
	'nats_publish.url' => $nats->url, 'nats_publish.ack_timeout' => '60s', 'wal_level' => 'logical',
	'shared_preload_libraries' => 'nats_publish, pg_stat_statements', 'pg_stat_statements.track' => 'all');
my $session = PsqlSession->new($node);
my $other = PsqlSession->new($node);
$session->value('CREATE EXTENSION pg_stat_statements');

sub publish
{
	my ($count, $subject) = @_;
	return $session->value("SELECT count(nats_publish_outbox('$subject', i::text)) FROM generate_series(1, $count) AS i");
}

sub stored { return $client->stream_info('D')->{state}{messages}; }

# Messages are published, and how many DELETEs that took
sub deletes_for
{
	my ($count) = @_;
	my $before = stored();
	$session->value('SELECT pg_stat_statements_reset()');
	publish($count, 'd.a');
	wait_until_drained($session);
	is(stored(), $before + $count, 'each was published');
	return $session->value(q(SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query ~ '^DELETE FROM public.nats_outbox'));
}

# Rows are on their way: nats-server has them, or will, and does not answer
sub while_on_their_way
{
	my ($count, $what) = @_;
	$nats->stall;
	publish($count, 'd.way');
	wait_for('all to be sent', sub { relay_column($session, 'state') eq 'publishing' });
	# what is sent is read no more, and nothing else shows it
	sleep 1;
	$what->();
	$nats->resume;
	return;
}

is(deletes_for(1000), 0, 'a plain table needs no statement');

# ---- What a DELETE would do beside

sub with
{
	my ($what, $set_up, $tear_down, $check) = @_;
	$session->value('CREATE TABLE told (id bigint)');
	$session->value($set_up);
	cmp_ok(deletes_for(20), '>', 0, "$what: a statement deletes");
	$check->();
	$session->value("$tear_down; DROP TABLE told");
	is(deletes_for(10), 0, 'and no more when it is gone');
	return;
}

sub is_told
{
	my ($count) = @_;
	return sub { is($session->value('SELECT count(*) FROM told'), $count, 'it has its say'); };
}

$session->value(q(CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
	$$BEGIN INSERT INTO public.told VALUES (CASE WHEN TG_LEVEL = 'ROW' THEN OLD.id END); RETURN OLD; END$$));
with("a trigger $_", "CREATE TRIGGER tell $_ DELETE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION tell()",
	'DROP TRIGGER tell ON nats_outbox', is_told(20)) foreach qw(BEFORE AFTER);
with("a trigger $_, once", "CREATE TRIGGER tell $_ DELETE ON nats_outbox FOR EACH STATEMENT EXECUTE FUNCTION tell()",
	'DROP TRIGGER tell ON nats_outbox', sub { cmp_ok($session->value('SELECT count(*) FROM told'), '>', 0, 'it has its say') }) foreach qw(BEFORE AFTER);
with('a foreign key', 'CREATE TABLE refers (id bigint REFERENCES nats_outbox ON DELETE CASCADE)', 'DROP TABLE refers', is_told(0));
with('a rule', 'CREATE RULE tell AS ON DELETE TO nats_outbox DO ALSO INSERT INTO told VALUES (OLD.id)', 'DROP RULE tell ON nats_outbox', is_told(20));
with('a table that inherits', 'CREATE TABLE child () INHERITS (nats_outbox)', 'DROP TABLE child; ANALYZE nats_outbox', is_told(0));
with('a policy that the owner has to obey', 'ALTER TABLE nats_outbox ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON nats_outbox USING (true)',
	'DROP POLICY p ON nats_outbox; ALTER TABLE nats_outbox DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', is_told(0));

# A trigger of other events is none of deleting.
$session->value('CREATE TRIGGER tell AFTER INSERT ON nats_outbox FOR EACH STATEMENT EXECUTE FUNCTION tell()');
$session->value('CREATE TABLE told (id bigint)');
is(deletes_for(20), 0, 'a trigger of INSERT is not asked');
$session->value('DROP TRIGGER tell ON nats_outbox; DROP TABLE told');

# Deleted rows that subscribers could not know of are an error, as of any DELETE.
{
	my $before = stored();
	$session->value('ALTER TABLE nats_outbox REPLICA IDENTITY NOTHING; CREATE PUBLICATION p FOR TABLE nats_outbox');
	publish(5, 'd.a');
	wait_for('an error', sub { relay_column($session, 'last_error') =~ /^cannot delete from table "nats_outbox" because it does not have a replica identity/ });
	is($session->value('SELECT count(*) FROM nats_outbox'), 5, 'they are kept');
	$session->value('ALTER TABLE nats_outbox REPLICA IDENTITY DEFAULT; SELECT nats_relay_resume()');
	wait_until_drained($session);
	is(stored(), $before + 5, 'and were published once');
	$session->value('DROP PUBLICATION p');
}

# ---- Rows that are elsewhere by then

# moved with all the table
{
	my $before = stored();
	while_on_their_way(100, sub { $session->value('VACUUM FULL nats_outbox') });
	wait_until_drained($session);
	is(stored(), $before + 100, 'VACUUM FULL: each was published once, and deleted');
}

# another row has the place, the first one of the table
{
	$session->value('VACUUM FULL nats_outbox');
	my $place;
	my $before = stored();
	while_on_their_way(1, sub {
		$place = $session->value('DELETE FROM nats_outbox RETURNING ctid');
		$session->value('SELECT nats_relay_pause()');
		$session->value('VACUUM (INDEX_CLEANUP ON) nats_outbox');
		$session->value(q(SELECT nats_publish_outbox('d.way', 'another')));
		is($session->value('SELECT ctid FROM nats_outbox'), $place, 'another row has taken the place of one that was deleted');
	});
	wait_for('the first one', sub { stored() == $before + 1 });
	wait_for_state($session, 'paused');
	is($session->value(q(SELECT count(*) FROM nats_outbox)), 1, 'it is not deleted for that one');
	wake_relay($session);
	wait_until_drained($session);
	is(($client->stream_messages('D'))[-1]{payload}, 'another', 'it is published');
}

# edited, and so somewhere else: it is settled by its id as ever
{
	my $before = stored();
	while_on_their_way(10, sub { $session->value(q(UPDATE nats_outbox SET headers = '{"X": "y"}' WHERE payload = '3')) });
	wait_until_drained($session);
	is(stored(), $before + 10, 'an edited row is deleted, too');
}

# locked: it is kept until the lock is gone, and not published again
{
	my $before = stored();
	while_on_their_way(10, sub { $other->value(q(BEGIN; SELECT FROM nats_outbox WHERE payload = '7' FOR UPDATE)) });
	wait_for('the others to be deleted', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '1' });
	is($session->value(q(SELECT convert_from(payload, 'UTF8') FROM nats_outbox)), '7', 'a locked row stays');
	$other->value('COMMIT');
	wait_until_drained($session, 60);
	is(stored(), $before + 10, 'and was published once');
}

# large values are deleted with their rows
publish(1, 'd.a');
$session->value(q(SELECT nats_publish_outbox('d.a', string_agg(md5(i::text), '')) FROM generate_series(1, 3000) AS i));
wait_until_drained($session);
is($session->value(q(SELECT count(*) FROM pg_class AS t JOIN pg_class AS c ON c.reltoastrelid = t.oid WHERE c.relname = 'nats_outbox')), 1, 'there is a table for large values');
is($session->value(q(DO $$ DECLARE n bigint; BEGIN EXECUTE 'SELECT count(*) FROM ' || (SELECT reltoastrelid::regclass FROM pg_class WHERE oid = 'nats_outbox'::regclass) INTO n;
	PERFORM set_config('nats_test.n', n::text, false); END $$; SELECT current_setting('nats_test.n'))), '0', 'it is empty again');

done_testing();
