// Fills the topics of `kafka-4.3.1/`; see README.md.

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Fill {
    static final String BROKER = "127.0.0.1:29092";
    static final long TIME = 1700000000000L;

    public static void main(String[] args) throws Exception {
        createTopics();
        for (String topic : new String[] {"none", "gzip", "snappy", "lz4", "zstd", "append"}) {
            boolean plain = topic.equals("none") || topic.equals("append");
            Properties settings = settings(plain ? "none" : topic);
            settings.put("enable.idempotence", plain ? "false" : "true");
            try (var producer = new KafkaProducer<byte[], byte[]>(settings)) {
                sendBatches(producer, "golden-" + topic, 2, 40);
            }
        }
        fillTransactions();
        Properties settings = settings("none");
        settings.put("batch.size", "3000");
        settings.put("linger.ms", "1");
        try (var producer = new KafkaProducer<byte[], byte[]>(settings)) {
            sendBatches(producer, "golden-big", 20, 20);
        }
        fillCompacted();
        // Time for the cleaner.
        Thread.sleep(8000);
    }

    static void createTopics() throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", BROKER);
        try (Admin admin = Admin.create(settings)) {
            for (int attempt = 0; attempt < 60; attempt++) {
                try {
                    admin.describeCluster().nodes().get(2, TimeUnit.SECONDS);
                    break;
                } catch (Exception starting) {
                    Thread.sleep(500);
                }
            }
            List<NewTopic> topics = new ArrayList<>();
            for (String name : new String[] {"none", "gzip", "snappy", "lz4", "zstd", "txn", "big"}) {
                topics.add(new NewTopic("golden-" + name, 1, (short) 1));
            }
            topics.add(new NewTopic("golden-append", 1, (short) 1)
                .configs(Map.of("message.timestamp.type", "LogAppendTime")));
            topics.add(new NewTopic("golden-compacted", 1, (short) 1).configs(Map.of(
                "cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0.01",
                "segment.bytes", "1048576", "segment.ms", "1000",
                "min.compaction.lag.ms", "0", "delete.retention.ms", "100000000")));
            admin.createTopics(topics).all().get();
        }
    }

    static Properties settings(String codec) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", BROKER);
        settings.put("compression.type", codec);
        settings.put("linger.ms", "200");
        settings.put("batch.size", "200000");
        settings.put("key.serializer", ByteArraySerializer.class.getName());
        settings.put("value.serializer", ByteArraySerializer.class.getName());
        return settings;
    }

    static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static ProducerRecord<byte[], byte[]> record(String topic, int n) {
        byte[] key = n % 5 == 4 ? null : utf8("key-" + n % 7);
        byte[] value = n % 11 == 10 ? null : utf8("value " + n + " " + "abcdefghij".repeat(n % 9));
        var record = new ProducerRecord<>(topic, 0, TIME + n * 37L % 1000, key, value);
        if (n % 3 == 0) {
            record.headers().add(new RecordHeader("h" + n, utf8("hv" + n)));
            record.headers().add(new RecordHeader("n\u00e4me", (byte[]) null));
            record.headers().add(new RecordHeader("empty", new byte[0]));
        }
        return record;
    }

    static void sendBatches(KafkaProducer<byte[], byte[]> producer, String topic, int batches, int records) {
        for (int n = 0; n < batches * records; n++) {
            producer.send(record(topic, n));
            if (n % records == records - 1) {
                producer.flush();
            }
        }
    }

    static void fillTransactions() {
        Properties settings = settings("none");
        settings.put("transactional.id", "golden");
        try (var producer = new KafkaProducer<byte[], byte[]>(settings)) {
            producer.initTransactions();
            for (int transaction = 0; transaction < 3; transaction++) {
                producer.beginTransaction();
                for (int n = 0; n < 5; n++) {
                    producer.send(record("golden-txn", transaction * 5 + n));
                }
                producer.flush();
                if (transaction == 1) {
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                }
            }
        }
    }

    static void fillCompacted() throws Exception {
        String topic = "golden-compacted";
        try (var producer = new KafkaProducer<byte[], byte[]>(settings("lz4"))) {
            for (int batch = 0; batch < 4; batch++) {
                for (int n = 0; n < 30; n++) {
                    byte[] key = utf8("k" + (n % 5 + (batch == 0 ? 10 : 0)));
                    byte[] value = batch == 2 && n % 5 == 1 ? null : utf8("v" + batch + "-" + n);
                    producer.send(new ProducerRecord<>(topic, 0, TIME + batch * 30 + n, key, value));
                }
                producer.flush();
            }
            // Two records later than segment.ms close the segment for the cleaner.
            Thread.sleep(3000);
            producer.send(new ProducerRecord<>(topic, 0, TIME + 9999, utf8("roll"), utf8("x")));
            producer.flush();
            Thread.sleep(2000);
            producer.send(new ProducerRecord<>(topic, 0, TIME + 19999, utf8("roll"), utf8("y")));
            producer.flush();
        }
    }
}
